"""Captions longer than 75 tokens: chunks of 75 with their own beginning and end, joined,
the first one pooled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from raytrain import families, plugins
from raytrain.config import ModelConfig
from raytrain.families import _stable_diffusion
from raytrain.sampling.generate import generate
from raytrain.sampling.prompts import Prompt
from tests.encoders import Encoders

SHORT, LONG = "a red star", "the quick brown fox jumps over the lazy dog! " * 6
"""The tiny tokenizer has single characters: LONG has 216 of them,
a wide caption of three chunks."""
EMPTY = ""
EXACT = "ab" * 75
CPU = torch.device("cpu")
CHUNKED = pytest.mark.parametrize(
    "family",
    [
        name
        for name in plugins.names("families")
        if 225 in families.load(name).CAPTION_TOKENS.values()
    ],
)
"""Families whose captions may be longer than one chunk."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelConfig]:
    """Return a maker of a family's tiny model with a caption length."""
    folders: dict[str, str] = {}

    def make(family: str, max_tokens: Any = 75) -> ModelConfig:
        if family not in folders:
            folders[family] = str(tmp_path_factory.mktemp(family))
            families.load(family).tiny(folders[family])
        return ModelConfig(family=family, path=folders[family], max_tokens=max_tokens)

    return make


def parts(model: ModelConfig) -> list[tuple[Any, Any]]:
    kinds = [("CLIPTextModel", "text_encoder")]
    kinds += [("CLIPTextModelWithProjection", "text_encoder_2")] if model.family == "sdxl" else []
    return [
        (
            _stable_diffusion.load_tokenizer(model, name.replace("text_encoder", "tokenizer")),
            _stable_diffusion.load_text(model, name, kind, torch.float32).eval(),
        )
        for kind, name in kinds
    ]


def states(model: ModelConfig, encoder: Any, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Return what the U-Net sees of one sequence of ids, and the encoder's first output."""
    with torch.no_grad():
        output = encoder(torch.tensor([ids]), output_hidden_states=True)
    seen = output.hidden_states[-2] if model.family == "sdxl" else output[0]
    return seen[0], output[0][0]


def reference(model: ModelConfig, caption: str) -> dict[str, Tensor]:
    """Encode one caption chunk by chunk with plain lists."""
    columns, pooled = [], None
    for tokenizer, encoder in parts(model):
        begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        words = tokenizer(caption, add_special_tokens=False).input_ids[: model.max_tokens]
        chunks = [words[start : start + 75] for start in range(0, model.max_tokens, 75)]
        ids = [[begin, *chunk, end] + [pad] * (75 - len(chunk)) for chunk in chunks]
        seen = [states(model, encoder, chunk) for chunk in ids]
        middle = [state[1:76] for state, _ in seen]
        columns.append(torch.cat([seen[0][0][:1], *middle, seen[-1][0][-1:]]))
        pooled = seen[0][1]
    assert pooled is not None
    return {"text": torch.cat(columns, dim=-1)} | (
        {"pooled": pooled} if model.family == "sdxl" else {}
    )


@CHUNKED
@pytest.mark.parametrize("max_tokens", [75, 150, 225])
def test_a_caption_is_encoded_in_chunks(
    family: str, max_tokens: int, model: Callable[..., ModelConfig]
) -> None:
    config = model(family, max_tokens)
    captions = [SHORT, LONG, EMPTY, EXACT, LONG * 2]
    columns = Encoders(config, CPU, torch.float32).encode_captions(captions)
    assert columns["text"].shape[:2] == (5, {75: 77, 150: 152, 225: 227}[max_tokens])
    for number, caption in enumerate(captions):
        for name, expected in reference(config, caption).items():
            torch.testing.assert_close(columns[name][number], expected, rtol=1e-5, atol=1e-5)


@CHUNKED
def test_75_tokens_are_encoded_as_ever_to_the_bit(
    family: str, model: Callable[..., ModelConfig]
) -> None:
    config = model(family)
    captions = [SHORT, LONG, EMPTY]
    columns = Encoders(config, CPU, torch.float32).encode_captions(captions)
    outputs = []
    for tokenizer, encoder in parts(config):
        tokens = tokenizer(
            captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        with torch.no_grad():
            outputs.append(encoder(tokens.input_ids, output_hidden_states=True))
    if family == "sd15":
        assert torch.equal(columns["text"], outputs[0][0])
    else:
        assert torch.equal(
            columns["text"], torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        )
        assert torch.equal(columns["pooled"], outputs[1][0])


@CHUNKED
def test_a_short_caption_has_the_same_first_77_states_and_pool_at_any_length(
    family: str, model: Callable[..., ModelConfig]
) -> None:
    short, long = (
        Encoders(model(family, length), CPU, torch.float32).encode_captions([SHORT])
        for length in (75, 225)
    )
    torch.testing.assert_close(long["text"][:, :76], short["text"][:, :76], rtol=1e-5, atol=1e-5)
    if family == "sdxl":
        torch.testing.assert_close(long["pooled"], short["pooled"], rtol=1e-5, atol=1e-5)


@CHUNKED
def test_cut_captions_are_counted(family: str, model: Callable[..., ModelConfig]) -> None:
    captions = [SHORT, "a" * 75, "a" * 76, "a" * 150, "a" * 151, "a" * 225, "a" * 226]
    found = {
        length: Encoders(model(family, length), CPU, torch.float32).too_long(captions)
        for length in (75, 150, 225)
    }
    assert {length: sum(cut) for length, cut in found.items()} == {75: 5, 150: 3, 225: 1}
    assert found[75] == [False, False, True, True, True, True, True]


@CHUNKED
def test_prompts_are_encoded_by_the_same_rule(
    family: str, model: Callable[..., ModelConfig]
) -> None:
    module = families.load(family)
    ending = [LONG + "red", LONG + "green", SHORT]
    asked = [Prompt(text, "blue", number, (64, 64), steps=2) for number, text in enumerate(ending)]

    def images(config: ModelConfig, encoded: bool = False) -> list[bytes]:
        denoiser = module.load(config, "unet", torch.float32)
        pipeline = module.pipeline(config, {"unet": denoiser}, "ddim", CPU)
        assert pipeline.unet is denoiser
        if encoded:
            encode = Encoders(config, CPU, torch.float32).encode_captions
            names = {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
            calls: dict[str, Tensor] = {}
            for prefix, texts in (("", ending), ("negative_", ["blue"] * 3)):
                calls |= {prefix + names[column]: value for column, value in encode(texts).items()}
            noise = [torch.Generator("cpu").manual_seed(number) for number in range(3)]
            made = pipeline.pipeline(
                **calls,
                num_inference_steps=2,
                guidance_scale=7.5,
                width=64,
                height=64,
                generator=noise,
            ).images
        else:
            made = generate(pipeline, asked, 3)
        return [image.tobytes() for image in made]

    at_75, at_225 = images(model(family)), images(model(family, 225))
    assert len(set(at_225)) == 3
    assert at_225 == images(model(family, 225), encoded=True)
    assert at_225[2] != at_75[2]  # padding of further chunks is seen, as it is in training
