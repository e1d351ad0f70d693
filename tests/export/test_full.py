"""Whole weights leave as a pipeline folder that loads without us,
its other parts byte for byte the base model's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers as library
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from raytrain import families, plugins
from raytrain.artifacts import Weights
from raytrain.config import Config
from raytrain.errors import UserError
from raytrain.export.bundle import Bundle
from raytrain.export.formats import diffusers
from raytrain.export.run import assemble, check, formats
from raytrain.train import cost
from tests.export.conftest import draw, settings


def full(folder: Path, family: str = "sd15", **model: Any) -> tuple[Config, Bundle]:
    """Return a config and the bundle of a denoiser whose every weight was shifted."""
    families.load(family).tiny(str(folder / "model"))
    config = settings(folder, family, {"name": "full"})
    config = config.model_copy(update={"model": config.model.model_copy(update=model)})
    plain = config.model.model_copy(update={"variant": None})
    part = families.denoiser(families.load(family))
    denoiser = families.load(family).load(plain, part, torch.float32)
    generator = torch.Generator().manual_seed(1)
    weights = {
        f"{part}.{name}": weight.detach() + 0.05 * torch.randn(weight.shape, generator=generator)
        for name, weight in denoiser.named_parameters()
    }
    return config, assemble(config, weights, {"step": 7, "config": config.values()})


def learned(bundle: Bundle) -> Mapping[str, Tensor]:
    """Return the denoiser's weights by their names in it."""
    (weights,) = bundle.of(Weights)
    assert weights.part == families.denoiser(bundle.family)
    return weights.tensors


def path_of(bundle: Bundle, folder: Path) -> str:
    (one,) = diffusers.write(bundle, str(folder))
    assert one.how_to_load == (
        f'pipe = diffusers.DiffusionPipeline.from_pretrained("{one.path}")',
    )
    return one.path


@pytest.mark.parametrize("family", plugins.names("families"))
def test_pipeline_folder_loads_with_the_learned_weights(family: str, tmp_path: Path) -> None:
    config, bundle = full(tmp_path, family)
    path = path_of(bundle, tmp_path / "export")
    loaded = library.DiffusionPipeline.from_pretrained(path)
    part = families.denoiser(bundle.family)
    state = dict(getattr(loaded, part).named_parameters())
    assert state.keys() == learned(bundle).keys()
    assert all(torch.equal(state[name], weight) for name, weight in learned(bundle).items())

    module = families.load(family)
    denoiser = module.load(config.model, part, torch.float32)
    denoiser.load_state_dict(dict(learned(bundle)), strict=False)  # buffers do not learn
    live = draw(module.pipeline(config.model, {part: denoiser}, "auto", torch.device("cpu")))
    loaded = draw(loaded)
    assert np.abs(loaded - live).max() <= 1 / 255


def test_other_parts_are_the_base_models_byte_for_byte(tmp_path: Path) -> None:
    _, bundle = full(tmp_path)
    path = path_of(bundle, tmp_path / "export")
    base, exported = tmp_path / "model", Path(path)
    files = {file.relative_to(base) for file in base.rglob("*") if file.is_file()}
    assert {file.relative_to(exported) for file in exported.rglob("*") if file.is_file()} == files
    for file in files:
        if file.parts[0] not in ("unet", "model_index.json"):
            assert (exported / file).read_bytes() == (base / file).read_bytes()
    with safe_open(exported / "unet" / "diffusion_pytorch_model.safetensors", "pt") as opened:
        assert opened.metadata()["raytrain.step"] == "7"


def test_half_precision_and_a_variant_of_the_base(tmp_path: Path) -> None:
    config, _ = full(tmp_path)
    vae = tmp_path / "model" / "vae"
    plain = vae / "diffusion_pytorch_model.safetensors"
    plain.rename(vae / "diffusion_pytorch_model.fp16.safetensors")
    (vae / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    tree = config.values()
    tree["export"]["precision"] = "fp16"
    tree["model"]["variant"] = "fp16"
    weights = families.load("sd15").load(config.model, "unet", torch.float32).state_dict()
    named = {f"unet.{name}": weight for name, weight in weights.items()}
    bundle = assemble(Config.model_validate(tree), named, {"step": 1, "config": tree})
    path = path_of(bundle, tmp_path / "export")
    assert [file.name for file in sorted((Path(path) / "vae").iterdir())] == [
        "config.json",
        plain.name,
    ]
    loaded = library.DiffusionPipeline.from_pretrained(path, torch_dtype=torch.float16)
    assert loaded.unet.dtype == torch.float16
    assert torch.equal(loaded.unet.conv_in.weight, weights["conv_in.weight"].half())


def test_an_optional_part_the_base_lacks_is_left_out(tmp_path: Path) -> None:
    _, bundle = full(tmp_path)
    file = tmp_path / "model" / "model_index.json"
    index = json.loads(file.read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    file.write_text(json.dumps(index))
    path = path_of(bundle, tmp_path / "export")
    assert json.loads((Path(path) / "model_index.json").read_text())["safety_checker"] == [
        None,
        None,
    ]
    assert library.DiffusionPipeline.from_pretrained(path).safety_checker is None


def test_another_vae_replaces_the_models_own(tmp_path: Path) -> None:
    families.load("sd15").tiny(str(tmp_path / "other"), seed=5)
    _, bundle = full(tmp_path, vae=str(tmp_path / "other"))
    path = path_of(bundle, tmp_path / "export")
    name = Path("vae") / "diffusion_pytorch_model.safetensors"
    assert (Path(path) / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_part_of_the_weights_is_completed_from_the_base(tmp_path: Path) -> None:
    config, bundle = full(tmp_path)
    part = {name: weight for name, weight in learned(bundle).items() if "attn" in name}
    named = {f"unet.{name}": weight for name, weight in part.items()}
    path = path_of(
        assemble(config, named, {"step": 7, "config": config.values()}), tmp_path / "export"
    )
    state = library.UNet2DConditionModel.from_pretrained(path, subfolder="unet").state_dict()
    base = families.load("sd15").load(config.model, "unet", torch.float32).state_dict()
    assert all(torch.equal(tensor, part.get(name, base[name])) for name, tensor in state.items())


def test_what_a_format_cannot_hold_is_refused_with_what_can(tmp_path: Path) -> None:
    config, bundle = full(tmp_path)
    assert formats(config, bundle.artifacts) == ["diffusers"]
    kohya = config.model_copy(
        update={"export": config.export.model_copy(update={"formats": ("kohya",)})}
    )
    with pytest.raises(UserError, match=r"export\.formats .*whole weights.*hold it: diffusers"):
        formats(kohya, bundle.artifacts)
    check(config, cost.skeleton(config))
    with pytest.raises(UserError, match=r"export\.formats"):
        check(kohya, cost.skeleton(kohya))  # as the plan does, before anything is trained


def test_weights_that_the_base_has_no_place_for_are_refused(tmp_path: Path) -> None:
    config, _ = full(tmp_path)
    with pytest.raises(UserError, match=r"unet\.prompt"):
        assemble(
            config, {"unet.prompt": torch.zeros(2, 2)}, {"step": 1, "config": config.values()}
        )
