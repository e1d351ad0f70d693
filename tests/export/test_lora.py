"""An exported LoRA draws the images that the live model draws,
in diffusers' format and in kohya's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from raytrain.artifacts import LowRank
from raytrain.errors import UserError
from raytrain.export.bundle import Bundle
from raytrain.export.formats import diffusers, kohya
from raytrain.export.run import assemble
from tests.export.conftest import EVERY_LAYER, Tuned, base_pipeline, draw

Tune = Callable[..., Tuned]
ONE_LEVEL = 1 / 255


def path_of(form: Any, bundle: Bundle, folder: Path) -> str:
    (one,) = form.write(bundle, str(folder))
    found: str = one.path
    return found


def header(path: str) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def assert_same_images(pipe: Any, tuned: Tuned) -> None:
    drawn = draw(pipe)
    assert np.abs(tuned.live - tuned.base).max() > 0.05
    assert np.abs(drawn - tuned.live).max() <= ONE_LEVEL


TEXT = {"text_rank": 3, "text_alpha": 6.0}
KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "every-layer": {"targets": list(EVERY_LAYER)},
    "convolutions": {"conv_rank": 2, "conv_alpha": 6.0},
    "text": TEXT,
}
DORA: dict[str, dict[str, Any]] = {
    "dora": {"dora": True, "conv_rank": 2, "conv_alpha": 6.0}, "dora-text": {"dora": True, **TEXT}
}  # fmt: skip
FORMS = [
    *(("diffusers", "sd15", kind) for kind in (*KINDS, *DORA)),
    *(("kohya", "sd15", kind) for kind in KINDS),  # of which diffusers reads no norms
    *(("diffusers", "sdxl", kind) for kind in ("every-layer", "dora-text")),
    *(("kohya", "sdxl", kind) for kind in ("every-layer", "text")),
]


@pytest.mark.parametrize(
    ("form", "family", "kind"), FORMS, ids=["-".join(names) for names in FORMS]
)
def test_exported_lora_draws_the_live_models_images(
    form: str, kind: str, family: str, tune: Tune, tmp_path: Path
) -> None:
    keys = {"rank": 4, "alpha": 2.0, **{**KINDS, **DORA}[kind]}
    tuned = tune(family, loudness=2.0 if kind == "attention" else 0.3, **keys)
    (one,) = {"diffusers": diffusers, "kohya": kohya}[form].write(tuned.bundle(), str(tmp_path))
    pipe = base_pipeline(tuned.config)
    pipe.load_lora_weights(str(tmp_path), weight_name=Path(one.path).name)
    loaded = {
        f"{part}.{name}"
        for part in tuned.model.parts
        for name, _ in getattr(pipe, part).named_parameters()
        if "lora_" in name
    }
    assert len(loaded) == len(tuned.weights)
    assert_same_images(pipe, tuned)


def test_diffusers_finds_the_file_by_folder_alone(tune: Tune, tmp_path: Path) -> None:
    tuned = tune("sd15")
    diffusers.write(tuned.bundle(), str(tmp_path))
    pipe = base_pipeline(tuned.config)
    pipe.load_lora_weights(str(tmp_path))
    assert_same_images(pipe, tuned)


def test_kohya_file_has_an_alpha_for_every_module(tune: Tune, tmp_path: Path) -> None:
    tuned = tune("sdxl")
    path = path_of(kohya, tuned.bundle(), tmp_path)
    assert Path(path).name == "my-run.safetensors"
    tensors = load_file(path)
    modules = {key.split(".")[0] for key in tensors}
    assert len(modules) == len(tuned.weights) // 2
    for module in modules:
        assert tensors[f"{module}.alpha"].shape == ()
        assert tensors[f"{module}.alpha"].item() == 2.0
        assert tensors[f"{module}.lora_down.weight"].shape[0] == 4
        assert tensors[f"{module}.lora_up.weight"].shape[1] == 4
    assert len(tensors) == 3 * len(modules)


def test_kohya_header_tells_how_it_was_trained(tune: Tune, tmp_path: Path) -> None:
    tuned = tune("sdxl")
    path = path_of(kohya, tuned.bundle(), tmp_path)
    found = header(path)
    assert found["ss_network_module"] == "networks.lora"
    assert found["ss_network_dim"] == "4"
    assert found["ss_network_alpha"] == "2"
    assert found["ss_base_model_version"] == "sdxl_base_v1-0"
    assert found["ss_sd_model_name"] == "model"
    assert found["ss_learning_rate"] == "0.0001"
    assert found["ss_output_name"] == "my-run"
    assert found["ss_steps"] == "7"
    assert found["ss_num_epochs"] == "10"
    assert found["ss_resolution"] == "(512, 512)"
    assert found["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


@pytest.mark.parametrize(
    ("precision", "told"), [("fp32", "no"), ("fp16", "fp16"), ("bf16", "bf16")]
)
def test_kohya_header_tells_the_precision_of_training(
    tune: Tune, tmp_path: Path, precision: str, told: str
) -> None:
    bundle = tune("sd15").bundle()
    train = bundle.config.train.model_copy(update={"precision": precision})
    config = bundle.config.model_copy(update={"train": train})
    path = path_of(kohya, replace(bundle, config=config), tmp_path)
    assert header(path)["ss_mixed_precision"] == told


def test_model_hash_is_that_of_the_bytes_after_the_header(tune: Tune, tmp_path: Path) -> None:
    tuned = tune("sd15")
    path = path_of(kohya, tuned.bundle(), tmp_path)
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert header(path)["sshs_model_hash"] == hashlib.sha256(content[start:]).hexdigest()


@pytest.mark.parametrize("form", [diffusers, kohya], ids=["diffusers", "kohya"])
def test_every_header_names_its_origin(form: Any, tune: Tune, tmp_path: Path) -> None:
    tuned = tune("sd15")
    path = path_of(form, tuned.bundle(), tmp_path)
    found = header(path)
    assert found["raytrain.commit"] == "c0ffee"
    assert found["raytrain.dataset"] == "f00d"
    assert found["raytrain.step"] == "7"
    assert found["raytrain.model"] == tuned.config.model.path
    assert len(found["raytrain.model_hash"]) == 64
    assert json.loads(found["raytrain.config"]) == tuned.config.values()
    assert found["modelspec.title"] == "my-run"
    assert found["modelspec.trigger_phrase"] == "sks"


def test_alpha_stays_exact_at_half_precision(tune: Tune, tmp_path: Path) -> None:
    bundle = tune("sd15").bundle(
        method={"alpha": 0.3}, export={"precision": "fp16"}
    )  # 0.3 is no half-precision number
    tensors = load_file(path_of(kohya, bundle, tmp_path))
    assert {value.dtype for key, value in tensors.items() if "lora_" in key.split(".", 1)[1]} == {
        torch.float16
    }
    assert all(
        value.item() == np.float32(0.3) for key, value in tensors.items() if key.endswith(".alpha")
    )


def test_diffusers_settings_say_what_the_tensors_hold(tune: Tune, tmp_path: Path) -> None:
    bundle = tune("sdxl", rank=4, alpha=2.0, conv_rank=2, text_rank=3).bundle()
    path = path_of(diffusers, bundle, tmp_path)
    told = json.loads(header(path)["lora_adapter_metadata"])
    assert (told["unet.r"], told["unet.lora_alpha"]) == (4, 4)
    assert set(told["unet.rank_pattern"].values()) == {2}
    assert told["unet.rank_pattern"] == told["unet.alpha_pattern"]
    assert (told["text_encoder.r"], told["text_encoder_2.r"]) == (3, 3)
    names = {key.split(".lora_")[0] for key in load_file(path)}
    assert all(".text_model.encoder." in name for name in names if name.startswith("text_encoder"))


def test_alpha_defaults_to_the_rank(tune: Tune) -> None:
    updates = tune("sd15").bundle(method={"alpha": None}).of(LowRank)
    assert {update.alpha for update in updates} == {4.0}


def test_lora_of_another_base_model_is_refused(tune: Tune) -> None:
    one, other = tune("sd15"), tune("sdxl")
    config = one.config.model_copy(update={"model": other.config.model})
    with pytest.raises(UserError, match="another base model"):
        assemble(config, one.weights, one.state)
