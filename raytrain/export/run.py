"""Export one checkpoint of a run in the formats its config asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raytrain import checkpoint, families, methods, plugins, storage
from raytrain.config import Config
from raytrain.configfile import parse
from raytrain.data.snapshot import read_manifest
from raytrain.errors import UserError
from raytrain.export import provenance
from raytrain.export.bundle import DTYPES, Bundle, is_lora
from raytrain.model import of_part

if TYPE_CHECKING:
    from torch import Tensor


def export(config: Config, which: str = "latest") -> list[str]:
    """Write checkpoint `which` (latest, best or a folder) under `<output>/export` and return what was written."""
    path = checkpoint.find(config.output, which)
    if path is None:
        raise UserError(
            f"An export needs learned weights, and {which!r} is the base model alone. "
            "Export latest, best or a checkpoint's folder."
        )
    ema = config.export.ema and storage.exists(storage.join(path, "ema.safetensors"))
    bundle = assemble(config, checkpoint.load_weights(path, ema=ema), checkpoint.read_state(path), ema=ema)
    folder = storage.join(config.output, "export")
    written: list[str] = []
    for name in config.export.formats:
        written += plugins.load("export.formats", name).write(bundle, folder)
    return written


def assemble(config: Config, weights: Mapping[str, Tensor], state: Mapping[str, Any], *, ema: bool = False) -> Bundle:
    """Build what the formats write; `state` is a checkpoint's: step, config, dataset, commit."""
    trained = parse({**state["config"], "model": config.values()["model"], "export": config.values()["export"]})
    family = families.load(trained.model.family)
    dtype = DTYPES[trained.export.precision]
    facts = methods.load(trained.method).facts(trained.method)
    name = config.output.rstrip("/").rsplit("/", 1)[-1]
    part = families.denoiser(family)
    weights = of_part(weights, part)
    header = provenance.header(name, trained, part, state, adapter=is_lora(weights), ema=ema)
    bundle = Bundle(
        name=name,
        config=trained,
        family=family,
        weights={key: tensor.to("cpu", dtype) for key, tensor in weights.items()},
        facts=facts,
        step=int(state["step"]),
        pictures=_pictures(config),
        header=header,
    )
    _check_fit(bundle)
    return bundle


def told(written: Sequence[str], config: Config) -> str:
    """Return the lines that say what was exported, and how each is loaded."""
    return "\n".join("\n    ".join([path, *how_to_load(path, config)]) for path in written)


def how_to_load(path: str, config: Config) -> list[str]:
    """Return the lines that load an exported file or folder."""
    folder, _, name = path.rpartition("/")
    if name == "pytorch_lora_weights.safetensors":
        return [
            f'pipe = diffusers.DiffusionPipeline.from_pretrained("{config.model.path}")',
            f'pipe.load_lora_weights("{folder}")',
        ]
    if name.endswith(".safetensors"):
        return [f'ComfyUI: copy it to models/loras, add the node "Load LoRA" and choose {name}.']
    return [f'pipe = diffusers.DiffusionPipeline.from_pretrained("{path}")']


def _pictures(config: Config) -> int | None:
    manifest = read_manifest(config.dataset)
    return None if manifest is None else sum(count.train for count in manifest.buckets.values())


def _check_fit(bundle: Bundle) -> None:
    """Raise UserError where a LoRA does not fit the base model: every loader would skip such modules without a word."""
    adapters = bundle.adapters()
    if not adapters:
        return
    own = bundle.skeleton().state_dict()
    for module, adapter in adapters.items():
        base = own.get(f"{module}.weight")
        if base is None or (base.shape[0], base.shape[1]) != (adapter.up.shape[0], adapter.down.shape[1]):
            raise UserError(
                f"The weights were trained on another base model: {bundle.config.model.path!r} has no layer {module!r} "
                f"with {adapter.down.shape[1]} inputs and {adapter.up.shape[0]} outputs. "
                "Set model.path to the base model of the training run."
            )
