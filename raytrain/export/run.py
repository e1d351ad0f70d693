"""Export one checkpoint of a run in the formats its config asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from raytrain import checkpoint, families, methods, plugins, storage
from raytrain.artifacts import Artifact
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.store.snapshot import read_manifest
from raytrain.errors import UserError
from raytrain.export import provenance
from raytrain.export.bundle import Bundle, Written
from raytrain.lock import locked
from raytrain.model import Model

if TYPE_CHECKING:
    from torch import Tensor

LOCK = ".lock"


def export(config: Config, which: str = "latest") -> list[Written]:
    """Write checkpoint `which` (latest, best or a folder) under `<output>/export` and return what
    was written."""
    learned = checkpoint.learned(config.output, which, ema=config.export.ema)
    if learned is None:
        raise UserError(
            f"An export needs learned weights, and {which!r} is the base model alone. "
            "Export latest, best or a checkpoint's folder."
        )
    folder = storage.join(config.output, "export")
    with locked(folder, "Another export is writing", "two would mix their files", LOCK):
        bundle = assemble(config, learned.weights, learned.state, ema=learned.ema)
        return write(bundle, folder)


def write(bundle: Bundle, folder: str) -> list[Written]:
    """Write a bundle in the formats its config asks for."""
    written: list[Written] = []
    for name in formats(bundle.config, bundle.artifacts):
        module = plugins.load("export.formats", name)
        written += module.write(replace(bundle, artifacts=bundle.of(module.TAKES)), folder)
    return written


def formats(config: Config, artifacts: Sequence[Artifact]) -> list[str]:
    """Return the formats to write: those requested, or every one that takes any;
    together they take all artifacts.

    Raises UserError where a requested one takes none, or an artifact is left over.
    """
    takes = {
        name: plugins.load("export.formats", name).TAKES
        for name in plugins.names("export.formats")
    }
    made = dict.fromkeys(type(artifact) for artifact in artifacts)
    asked = config.export.formats
    chosen = [name for name in takes if any(issubclass(kind, takes[name]) for kind in made)]
    if not isinstance(asked, str):
        takes |= {name: plugins.load("export.formats", name).TAKES for name in asked}
        chosen = list(dict.fromkeys(asked))
    for name in chosen:
        if not any(issubclass(kind, takes[name]) for kind in made):
            _refuse(
                config,
                made,
                f"format {name!r} holds {_words(takes[name])} and would be empty",
                takes,
            )
    for kind in made:
        if not any(issubclass(kind, takes[name]) for name in chosen):
            _refuse(
                config,
                [kind],
                f"no format of {', '.join(map(repr, chosen))} holds it, so it would be lost",
                takes,
            )
    return chosen


def check(config: Config, model: Model) -> list[str]:
    """Return the formats that will be written of what a model will learn; UserError, before any
    cost arises, where those requested cannot hold it."""
    learned = model.method.artifacts(model.state(), config.method, model.objective.family)
    return formats(config, learned)


def assemble(
    config: Config, weights: Mapping[str, Tensor], state: Mapping[str, Any], *, ema: bool = False
) -> Bundle:
    """Build what the formats write; `state` is a checkpoint's: step, config, dataset, commit."""
    today = config.values()
    trained = parse({**state["config"], "model": today["model"], "export": today["export"]})
    family, method = families.load(trained.model.family), methods.load(trained.method)
    learned = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in weights.items()}
    artifacts = method.artifacts(learned, trained.method, family)
    name = storage.base_name(config.output)
    header = provenance.header(name, trained, state, artifacts, ema=ema)
    bundle = Bundle(name, trained, family, artifacts, int(state["step"]), _images(config), header)
    _check_fit(bundle, learned)
    return bundle


def told(written: Sequence[Written]) -> str:
    """Return the lines that say what was exported, and how each is loaded."""
    lines = ["\n    ".join([each.path, *each.how_to_load]) for each in written]
    if not all(storage.is_local(each.path) for each in written):
        lines.append("Copy what is loaded to a local folder first: no library reads a store.")
    return "\n".join(lines)


def export_and_tell(config: Config, which: str = "latest") -> str:
    """Export a checkpoint and return what `told` says of it."""
    return told(export(config, which))


def _refuse(
    config: Config, kinds: Sequence[type] | dict[type, None], why: str, takes: Mapping[str, Any]
) -> None:
    able = [
        name for name, types in takes.items() if any(issubclass(kind, types) for kind in kinds)
    ]
    raise UserError(
        f"export.formats does not fit what method.name = {config.method.name!r} learns "
        f"({_words(kinds)}): {why}. Formats that hold it: {', '.join(able) or 'none'}; or leave "
        'export.formats at "auto".'
    )


def _words(kinds: Any) -> str:
    return ", ".join(kind.WORDS for kind in kinds)


def _images(config: Config) -> int | None:
    manifest = read_manifest(config.dataset)
    return None if manifest is None else sum(count.train for count in manifest.buckets.values())


def _check_fit(bundle: Bundle, weights: Mapping[str, Tensor]) -> None:
    """Raise UserError where weights do not fit the base model:
    every loader would skip them without a word."""
    own = bundle.structure().learning()
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise UserError(
                f"The weights were trained on another base model: {bundle.config.model.path!r} "
                f"has no place for {name!r} of {tuple(tensor.shape)}. Set model.path to the base "
                "model of the training run."
            )
