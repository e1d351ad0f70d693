"""Which files of a model are found, downloaded and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from raytrain import families, pretrained
from raytrain.config import ModelConfig
from raytrain.errors import UserError
from raytrain.families import sd15

PARTS = {
    "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
    "safety_checker": "model",
}  # fmt: skip
WEIGHTS = [
    f"{part}/{name}{variant}.{ending}"
    for part, name in PARTS.items()
    for variant in ("", ".fp16", ".non_ema", ".fp16-00001-of-00002")
    for ending in ("safetensors", "bin")
]
REPOSITORY = [
    *WEIGHTS, "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt", "model_index.json",
    "unet/config.json", "tokenizer/merges.txt", "tokenizer/vocab.json", "README.md",
    "text_encoder/model-00001-of-00002.safetensors", "text_encoder/model.safetensors.index.json",
    "text_encoder/model-00001-of-00002.fp16.safetensors", "text_encoder_3/spiece.model",
]  # fmt: skip
"""Files as published repositories of Stable Diffusion have them."""


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_only_the_weights_that_are_loaded_are_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: str | None
) -> None:
    asked: dict[str, Any] = {}

    def download(path: str, **given: Any) -> str:
        asked.update(given, path=path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    pretrained.resolve.cache_clear()
    model = ModelConfig(path="owner/name", revision="v2", variant=variant)
    assert pretrained.folder(model) == tmp_path
    assert (asked["path"], asked["revision"]) == ("owner/name", "v2")
    taken = set(filter_repo_objects(REPOSITORY, allow_patterns=asked["allow_patterns"]))
    if variant:
        wanted = {f"{part}/{name}.fp16.safetensors" for part, name in PARTS.items()}
        wanted |= {
            f"{part}/{name}.fp16-00001-of-00002.safetensors" for part, name in PARTS.items()
        }
        wanted |= {"text_encoder/model-00001-of-00002.fp16.safetensors"}
    else:
        wanted = {f"{part}/{name}.safetensors" for part, name in PARTS.items()}
        wanted |= {"text_encoder/model-00001-of-00002.safetensors"}
    read = {
        "model_index.json", "unet/config.json", "tokenizer/merges.txt", "tokenizer/vocab.json",
        "text_encoder/model.safetensors.index.json", "text_encoder_3/spiece.model",
    }  # fmt: skip
    assert taken == wanted | read


def test_a_revision_is_its_own_snapshot_and_no_revision_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "models--owner--name"
    for number, name in enumerate(("main", "v2")):
        (cache / "refs").mkdir(parents=True, exist_ok=True)
        (cache / "refs" / name).write_text(str(number) * 40)
        (cache / "snapshots" / (str(number) * 40)).mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pretrained.resolve.cache_clear()
    assert pretrained.resolve("owner/name").name == "0" * 40
    assert pretrained.resolve("owner/name", "v2").name == "1" * 40
    with pytest.raises(UserError, match="no folder here, and the hub could not give it"):
        pretrained.resolve("owner/name", "v3")
    with pytest.raises(UserError, match=r"revision = 'v2'.*is a folder here.*no effect"):
        pretrained.resolve(str(tmp_path), "v2")


def test_a_variants_weights_are_the_ones_loaded(tmp_path: Path) -> None:
    sd15.tiny(str(tmp_path))
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        plain = load_file(tmp_path / part / f"{name}.safetensors")
        changed = {key: value + 1 for key, value in plain.items()}
        save_file(changed, tmp_path / part / f"{name}.fp16.safetensors", {"format": "pt"})
        for variant, wanted in ((None, plain), ("fp16", changed)):
            model = ModelConfig(path=str(tmp_path), variant=variant)
            loaded = families.load("sd15").load(model, part, torch.float32).state_dict()
            key = next(key for key in wanted if key in loaded)
            assert torch.equal(loaded[key], wanted[key])
