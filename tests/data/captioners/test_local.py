"""Captioners on tiny random weights of the real classes: what they write is what transformers' own
call writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    BlipForConditionalGeneration,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GitForCausalLM,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    VisionEncoderDecoderModel,
)

from raytrain import plugins
from raytrain.config.data import CaptionConfig
from raytrain.data.captioners import _tiny, blip, chat_vlm, vit_gpt2
from raytrain.data.image.image import BadImage
from raytrain.errors import UserError

NAMES = ["blip", "blip2", "git", "vit_gpt2", "florence2", "chat_vlm"]
MODELS: dict[str, Any] = {
    "blip": BlipForConditionalGeneration,
    "blip2": Blip2ForConditionalGeneration,
    "git": GitForCausalLM,
    "vit_gpt2": VisionEncoderDecoderModel,
    "florence2": Florence2ForConditionalGeneration,
    "chat_vlm": LlavaNextForConditionalGeneration,
}
BEAMS = {"num_beams": 5, "max_new_tokens": 7}


def written(
    name: str, path: str, images: list[Image.Image], **settings: Any
) -> list[str | BadImage]:
    config = CaptionConfig(captioner=name, path=path, **{**BEAMS, **settings})
    captions: list[str | BadImage] = (
        plugins.load("data.captioners", name).load(config).caption(images)
    )
    return captions


def reference(name: str, path: str, image: Image.Image, dtype: torch.dtype = torch.float32) -> str:
    """Caption one image with transformers alone."""
    image = image.convert("RGB")
    if name == "florence2":
        processor = Florence2Processor.from_pretrained(path)
        inputs = processor(images=image, text="<MORE_DETAILED_CAPTION>", return_tensors="pt")
    elif name == "chat_vlm":
        processor = LlavaNextProcessor.from_pretrained(path)
        asked = f"[INST] <image> {chat_vlm.PROMPT} [/INST]"
        inputs = processor(images=image, text=asked, return_tensors="pt")
    else:
        inputs = AutoImageProcessor.from_pretrained(path)(images=image, return_tensors="pt")
    model = MODELS[name].from_pretrained(path, dtype=dtype).eval()
    inputs = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with torch.no_grad():
        tokens = model.generate(**inputs, **BEAMS, do_sample=False)
    if name == "chat_vlm":
        tokens = tokens[:, inputs["input_ids"].shape[1] :]
    text: str = AutoTokenizer.from_pretrained(path).batch_decode(tokens, skip_special_tokens=True)[
        0
    ]
    return " ".join(text.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_caption_is_what_the_library_generates(
    name: str, folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    captions = written(name, folder(name), images)
    assert captions == [reference(name, folder(name), image) for image in images]
    assert any(captions)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_the_library_s(
    name: str, folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    [caption] = written(name, folder(name), images[1:2], options={"precision": "bf16"})
    assert caption == reference(name, folder(name), images[1], torch.bfloat16)


@pytest.mark.parametrize("name", NAMES)
def test_the_version_follows_weights_prompt_and_settings(
    name: str, folder: Callable[[str], str], tmp_path: Path
) -> None:
    module = plugins.load("data.captioners", name)
    base = CaptionConfig(captioner=name, path=folder(name))
    shutil.copytree(folder(name), tmp_path / "same")
    module.tiny(str(tmp_path / "other"), seed=1)
    changes: list[dict[str, Any]] = [
        {"path": str(tmp_path / "other")},
        {"num_beams": 1},
        {"max_new_tokens": 3},
    ]
    changes += [
        {"options": {"sample": True}},
        {"options": {"precision": "bf16"}},
        {"path": "owner/name"},
    ]
    changes += [{"path": "owner/name", "revision": "v2"}]
    changes += [{"prompt": "<CAPTION>"}] if name != "vit_gpt2" else []
    versions = [module.version(base.model_copy(update=change)) for change in [{}, *changes]]
    assert len(set(versions)) == len(versions)
    assert module.version(base.model_copy(update={"path": str(tmp_path / "same")})) == versions[0]
    assert (
        module.version(base.model_copy(update={"prompt": module.PROMPT, "trigger": "sks"}))
        == versions[0]
    )
    weights = tmp_path / "same" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert module.version(base.model_copy(update={"path": str(tmp_path / "same")})) != versions[0]


@pytest.mark.parametrize("name", NAMES)
def test_drawn_captions_belong_to_the_image_and_the_seed(
    name: str, folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    config = CaptionConfig(
        captioner=name, path=folder(name), options={"sample": True, "temperature": 3.0, "seed": 3}
    )
    captioner = plugins.load("data.captioners", name).load(config)
    state = torch.random.get_rng_state()
    captions = captioner.caption(images)
    assert torch.equal(state, torch.random.get_rng_state())
    assert captions == captioner.caption(images[::-1])[::-1]
    assert captions != written(
        name, folder(name), images, options={"sample": True, "temperature": 3.0}
    )


def test_blip_continues_its_prompt(
    folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    captions = written("blip", folder("blip"), images, prompt="a red star")
    assert all(str(caption).startswith("a red star") for caption in captions)


@pytest.mark.parametrize("name", ["blip2", "git", "chat_vlm", "florence2"])
def test_a_question_changes_the_answer_and_is_no_part_of_it(
    name: str, folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    plain = written(name, folder(name), images)
    asked = written(name, folder(name), images, prompt="what is this star on the red circle ?")
    assert asked != plain
    assert not any("what is this star" in str(caption) for caption in asked)


def test_vit_gpt2_takes_no_prompt(folder: Callable[[str], str]) -> None:
    config = CaptionConfig(captioner="vit_gpt2", path=folder("vit_gpt2"), prompt="a")
    with pytest.raises(UserError, match="'vit_gpt2' cannot be asked anything"):
        vit_gpt2.version(config)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "model.safetensors").unlink(), "model.safetensors"),
        (lambda root: (root / "model.safetensors").write_bytes(b"\x00" * 64), "could not load it"),
        (lambda root: (root / "config.json").write_text("{}"), "could not load it"),
        (lambda root: (root / "preprocessor_config.json").unlink(), "could not load it"),
    ],
)
def test_a_damaged_folder_is_one_message(
    damage: Callable[[Path], Any], message: str, folder: Callable[[str], str], tmp_path: Path
) -> None:
    root = tmp_path / "blip"
    shutil.copytree(folder("blip"), root)
    damage(root)
    with pytest.raises(UserError, match=message) as caught:
        blip.load(CaptionConfig(captioner="blip", path=str(root)))
    assert str(root) in str(caught.value)


def test_weights_that_are_missing_are_not_made_up(
    folder: Callable[[str], str], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    root = tmp_path / "blip"
    shutil.copytree(folder("blip"), root)
    weights = load_file(root / "model.safetensors")
    lost = next(name for name in weights if "encoder.layers.1" in name)
    del weights[lost]
    save_file(weights, root / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks the weights"):
        blip.load(CaptionConfig(captioner="blip", path=str(root)))


def test_the_folder_of_another_captioner_is_refused(folder: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match="'blip' could not load it"):
        blip.load(CaptionConfig(captioner="blip", path=folder("vit_gpt2")))


@pytest.mark.parametrize("path", ["./nowhere", "nowhere", "a/b/c"])
def test_a_path_that_is_neither_folder_nor_hub_id_is_one_message(path: str) -> None:
    with pytest.raises(UserError, match="must be a folder or a hub id"):
        blip.version(CaptionConfig(captioner="blip", path=path))


def test_a_processor_with_videos_does_without_torchvision(
    images: list[Image.Image], tmp_path: Path
) -> None:
    _tiny.write_qwen2_vl(str(tmp_path), seed=0)
    config = CaptionConfig(captioner="chat_vlm", path=str(tmp_path), **BEAMS)
    captioner = chat_vlm.load(config)
    captions = captioner.caption([*images, Image.new("RGB", (600, 2))])
    assert isinstance(captions[-1], BadImage)
    assert "aspect ratio" in str(captions[-1])
    assert captions[:-1] == [captioner.caption([image])[0] for image in images]

    look, words = (
        AutoImageProcessor.from_pretrained(tmp_path, backend="pil"),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    seen = look(images=[images[0]], return_tensors="pt")
    marks = "<|image_pad|>" * int(seen["image_grid_thw"][0].prod() // 4)
    asked = words(f"<|vision_start|>{marks}<|vision_end|> {chat_vlm.PROMPT} ", return_tensors="pt")
    kinds = (asked["input_ids"] == words.convert_tokens_to_ids("<|image_pad|>")).int()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    tokens = model.generate(
        **seen,
        input_ids=asked["input_ids"],
        attention_mask=asked["attention_mask"],
        mm_token_type_ids=kinds,
        **BEAMS,
        do_sample=False,
    )
    answer = words.decode(tokens[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert captions[0] == " ".join(answer.split())


def test_a_size_the_model_refuses_costs_this_image_alone(
    folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    captioner = chat_vlm.load(
        CaptionConfig(captioner="chat_vlm", path=folder("chat_vlm"), max_new_tokens=4)
    )
    inputs = captioner.inputs  # type: ignore[attr-defined]

    def refusing(batch: list[Image.Image]) -> dict[str, Any]:
        if any(image.size == (33, 33) for image in batch):
            raise ValueError("absolute aspect ratio must be smaller than 200")
        return dict(inputs(batch))

    captioner.inputs = refusing  # type: ignore[attr-defined]
    captions = captioner.caption(images)
    assert [isinstance(caption, BadImage) for caption in captions] == [False] * 4 + [True]
    assert "aspect ratio" in str(captions[-1])
