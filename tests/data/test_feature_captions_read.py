"""Which stored caption a step reads: growing captions, dropped ones and whole epochs without,
functions of the row, its occurrence and the step alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Captions, Loader
from raytrain.data.loading.read import Dataset, check_dataset
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from tests.data.conftest import draw
from tests.data.contents import contents

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]
Read = dict[tuple[str, int], tuple[int, str]]
"""(path, occurrence) -> (step, caption)."""


def configured(make: Make, objective: dict[str, Any], captions: dict[str, Any]) -> Config:
    tree = make(held_out=0.0).values()
    return parse({**tree, "data": {**tree["data"], "captions": captions}, "objective": objective})


@pytest.fixture
def made(tmp_path: Path, make_config: Make) -> Config:
    """Four images of tags, each with two versions, three stages and the trigger alone."""
    for number in range(4):
        tags = ", ".join(f"{letter}{number}" for letter in "abcdefg")
        draw(tmp_path / "images" / f"{number}.png", number, caption=tags)
    captions = {"trigger": "sks", "keep_tags": 1, "variants": 2, "warmup_stages": 3,
                "dropped": "trigger"}  # fmt: skip
    config = configured(make_config, {"caption_warmup": "50 %", "caption_dropout": 0.25}, captions)
    prepare(config)
    return config


def read(config: Config, rule: Captions, epochs: int = 8, steps: range | None = None) -> Read:
    dataset = Dataset(config.dataset)
    rows = [row for (path, _), row in contents(config).items() if path]
    texts = {
        (row["id"].hex(), version[0]["text"]): (row["path"], caption)
        for row in rows
        for caption, version in reversed(list(zip(row["captions"], row["text"], strict=True)))
    }
    empty = dataset.empties(["text"])["text"].tobytes()
    paths = {row["id"].hex(): row["path"] for row in rows}
    sampler = BatchSampler(dataset.counts(), batch=2, seed=3, epochs=epochs)
    loader, found = Loader(dataset, sampler, captions=rule), {}
    for number in steps or range(sampler.total_steps):
        batch = loader.step(number).batch
        for identity, occurrence, text in zip(
            batch.ids, batch.occurrences, batch.columns["text"].numpy(), strict=True
        ):
            content = text.astype(np.float16).tobytes()
            caption = "" if content == empty else texts[identity, content][1]
            found[paths[identity], occurrence] = number, caption
    return found


def test_captions_grow_from_their_first_tags_in_stages(made: Config) -> None:
    """By sd-scripts' rule, sampled at the first step of each stage: floor(share * (6 - 1)) + 1 of
    the six tags after the kept one."""
    rule = Captions.of(made, total_steps=16)
    assert rule.warmup == 8
    found = read(made, Captions(warmup=rule.warmup))
    by_step: dict[int, set[int]] = {}
    for step, caption in found.values():
        by_step.setdefault(step, set()).add(len(caption.split(", ")) - 2)
        assert caption.startswith("sks, a")
    counts = [1, 1, 1, 2, 2, 2, 4, 4, *[6] * 8]
    assert [by_step[step] for step in range(16)] == [{count} for count in counts]
    assert len({caption for _, caption in found.values()}) > 12, "both versions of each are read"


def test_dropped_captions_leave_the_trigger_or_nothing_for_the_same_occurrences(
    made: Config,
) -> None:
    trigger = read(made, Captions(dropout=0.25, to_trigger=True), epochs=40)
    empty = read(made, Captions(dropout=0.25), epochs=40)
    dropped = {key for key, (_, caption) in trigger.items() if caption == "sks"}
    assert dropped == {key for key, (_, caption) in empty.items() if not caption}
    assert 0.25 * 160 - 4 * 5.5 < len(dropped) < 0.25 * 160 + 4 * 5.5
    others = [key for key in trigger if key not in dropped]
    assert [trigger[key] for key in others] == [empty[key] for key in others]
    assert all(len(trigger[key][1].split(", ")) == 8 for key in others)


def test_every_third_epoch_of_a_row_has_no_captions(made: Config) -> None:
    found = read(made, Captions(dropout_epochs=3), epochs=7)
    assert {(occurrence, not caption) for (_, occurrence), (_, caption) in found.items()} == {
        (occurrence, occurrence in (2, 5)) for occurrence in range(7)
    }


def test_a_run_that_goes_on_reads_what_an_unbroken_one_does(made: Config) -> None:
    rule = Captions(dropout=0.3, dropout_epochs=3, to_trigger=True, warmup=7)
    whole = read(made, rule)
    for start in (3, 6, 11):
        rest = read(made, rule, steps=range(start, 16))
        assert rest == {key: each for key, each in whole.items() if each[0] >= start}


def test_what_is_not_stored_is_told_before_training(
    made: Config, tmp_path: Path, make_config: Make
) -> None:
    stored = {"trigger": "sks", "warmup_stages": 3, "dropped": "trigger"}

    def config(objective: dict[str, Any], **captions: Any) -> Config:
        return configured(make_config, objective, captions)

    check_dataset(config({"caption_dropout": 0.1}, trigger="sks"))
    with pytest.raises(UserError, match=r"warmup_stages = 3, not 5"):
        check_dataset(config({"caption_warmup": 5}, **{**stored, "warmup_stages": 5}))
    with pytest.raises(UserError, match="nothing would grow"):
        config({}, **stored)
    with pytest.raises(UserError, match="`trigger` is empty"):
        config({}, dropped="trigger")


def test_a_regularization_image_is_dropped_to_nothing(tmp_path: Path, make_config: Make) -> None:
    draw(tmp_path / "images" / "a.png", 1, caption="a cat")
    draw(tmp_path / "other" / "b.png", 2, caption="a dog")
    subsets = [{"source": str(tmp_path / "images")},
               {"source": str(tmp_path / "other"), "regularization": True}]  # fmt: skip
    config = make_config(source="", format="auto", subsets=subsets, held_out=0.0,
                         captions={"trigger": "sks", "dropped": "trigger"})  # fmt: skip
    report = prepare(config)
    rows = {row["path"]: row["captions"] for (path, _), row in contents(config).items() if path}
    assert rows == {"a.png": ["sks, a cat", "sks"], "b.png": ["a dog", ""]}
    assert report.uncaptioned == 0
    assert any("data.captions.dropped" in note for note in report.notes)
