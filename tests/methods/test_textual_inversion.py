"""New words: they begin as what they are told to, are read as several vectors,
and leave all others as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain import families, methods, plugins
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.errors import UserError
from raytrain.model import build

CPU = torch.device("cpu")
Make = Callable[..., Config]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def config(family: str = "sd15", **method: Any) -> Config:
        if not (tmp_path / family).exists():
            families.load(family).tiny(str(tmp_path / family))
        return parse({
            "output": str(tmp_path / "run"),
            "model": {"family": family, "path": str(tmp_path / family)},
            "method": {"name": "textual_inversion", "tokens": ["<neon>"], **method},
        })  # fmt: skip

    return config


def ids(config: Config, caption: str) -> dict[str, list[int]]:
    """Return the token ids of a caption by tokenizer, as training reads them."""
    family, method = families.load(config.model.family), methods.load(config.method)
    known = {
        name: family.load(config.model, name, torch.float32)
        for name in families.text_parts(family, "tokenizer")
    }
    taught = method.tokenizers(known, family, config.method)
    return {
        name: found.flatten().tolist()
        for name, found in family.tokenize(taught, [caption], config.model).items()
    }


@pytest.mark.parametrize("family", plugins.names("families"))
def test_words_begin_as_the_known_ones(make: Make, family: str) -> None:
    config = make(family, vectors=3, init="red")
    kind, model = families.load(family), build(config, CPU)
    encoders = {name: model.parts[name] for name in families.text_parts(kind, "text")}

    def text(caption: str) -> dict[str, torch.Tensor]:
        found = {name: torch.tensor([each]) for name, each in ids(config, caption).items()}
        shaped = {
            name: row if name == "tokenizer_3" else row[:, None] for name, row in found.items()
        }
        with torch.no_grad():
            return kind.encode_text(encoders, shaped, config.model)

    new, known = text("a <neon> b"), text("a red b")
    learns = len({name.partition(".")[0] for name in model.learning()})
    assert learns == sum(name in kind.LORA_TARGETS for name in encoders)
    for name, column in new.items():
        width = (
            77 if name == "text" else None
        )  # T5 behind it, where there is one, reads the word's letters
        torch.testing.assert_close(column[:, :width], known[name][:, :width])


def test_a_word_of_several_vectors_is_read_as_all_of_them_once(make: Make) -> None:
    config = make(vectors=3)
    once = ids(config, "a <neon> b")
    assert once == ids(config, "a <neon> <neon>_1 <neon>_2 b")  # as diffusers' pipelines expand it
    [row] = once.values()
    assert [row.count(each) for each in sorted(set(row))[-3:]] == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "init", "known"),
    [
        ("<neon>, a red star", "", "a red star"),
        ("a <neon> red star", "", "a red star"),
        ("a star, <neon>, on black", "", "a star, on black"),
        ("a star, in <neon>", "cat", "a star, in cat"),
        ("a <neon> <neon>_1 <neon>_2 star", "tall", "a tall star"),
        ("<neon>", "", ""),
        ("nothing  new ,", "", "nothing  new ,"),
    ],
)
def test_a_prompt_is_told_in_words_that_the_base_knows(
    make: Make, text: str, init: str, known: str
) -> None:
    config = make(init=init)
    assert methods.load(config.method).known_words(text, config.method) == known


def test_no_known_row_learns_whatever_the_optimizer_does(make: Make) -> None:
    model = build(make(vectors=2, init="ab"), CPU)
    encoder = model.parts["text_encoder"]
    rows = encoder.get_input_embeddings()
    before = {
        name: weight.clone()
        for name, weight in model.named_parameters()
        if not weight.requires_grad
    }
    optimizer = torch.optim.SGD(model.learning().values(), lr=1.0, weight_decay=0.1)
    [word] = ids(make(vectors=2, init="ab"), "<neon>").values()
    encoder(torch.tensor([word]))[0].sum().backward()
    optimizer.step()
    assert not torch.equal(rows.weight[-2:], rows.base.weight[-2:])
    for name, weight in model.named_parameters():
        assert name not in before or torch.equal(weight, before[name]), name


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"tokens": ["a"]}, "the tokenizer knows a"),
        ({"tokens": ["two words"]}, "words without spaces"),
        ({"tokens": ["<x>_1"]}, "do not end in _ and digits"),
        ({"tokens": ["<x>", "<x>"]}, "must differ"),
        ({"tokens": []}, "at least 1"),
    ],
)
def test_a_word_that_is_none_is_told(make: Make, method: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        ids(make(**method), "a")
