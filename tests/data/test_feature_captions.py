"""Captions from a source to stored text: several an image, variants, quality tags,
and which version an occurrence reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.render.preparation import show
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Loader
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from tests.data.conftest import draw
from tests.data.contents import contents
from tests.data.direct import Direct, same

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {path: row for (path, _), row in contents(config).items() if path}


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of three images: one with two captions, one with one, one with none."""
    for number in range(3):
        draw(tmp_path / f"{number}.png", number)
    several = ["red, round, old, on a table", "a ball"]
    texts = {"0.png": several, "1.png": "blue, square, new", "2.png": ""}
    records = [{"file": name, "text": text} for name, text in texts.items()]
    (tmp_path / "list.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return tmp_path / "list.jsonl"


def test_every_version_is_stored_and_encoded_as_it_reads(listed: Path, make_config: Make) -> None:
    captions = {"variants": 3, "tag_dropout": 0.5, "keep_tags": 1, "trigger": "zwx"}
    config = make_config(source=str(listed), format="auto", held_out=0.0, captions=captions)
    report = prepare(config)
    found, direct = rows(config), Direct(config)
    assert found["0.png"]["captions"][:2] == ["zwx, red, round, old, on a table", "zwx, a ball"]
    assert len(found["0.png"]["captions"]) > 3
    assert found["2.png"]["captions"] == ["zwx"]
    for row in found.values():
        tags = [set(caption.split(", ")) for caption in row["captions"]]
        assert len(set(row["captions"])) == len(row["captions"]) == len(row["text"])
        if row["path"] == "1.png":
            assert all({"zwx", "blue"} <= own <= {"zwx", "blue", "square", "new"} for own in tags)
        for caption, version in zip(row["captions"], row["text"], strict=True):
            assert same(version, direct.text(caption), "text")
    assert report.made["text"] == len(
        {caption for row in found.values() for caption in row["captions"]}
    )
    assert report.uncaptioned == 1


def test_visits_read_all_versions_alike_often_and_each_the_same_again(
    listed: Path, make_config: Make
) -> None:
    config = make_config(source=str(listed), format="auto", held_out=0.0, captions={"variants": 2})
    prepare(config)
    dataset, epochs = Dataset(config.dataset), 300
    versions = {
        row["id"].hex(): [np.frombuffer(version[0]["text"], np.float16) for version in row["text"]]
        for row in rows(config).values()
    }
    loaders = [
        Loader(dataset, BatchSampler(dataset.counts(), batch=3, seed=seed, epochs=epochs))
        for seed in (1, 1, 2)
    ]
    chosen: list[dict[tuple[str, int], int]] = []
    for loader in loaders:
        own: dict[tuple[str, int], int] = {}
        for number in range(loader.batch_sampler.total_steps):
            batch = loader.step(number).batch
            for identity, occurrence, text in zip(
                batch.ids, batch.occurrences, batch.columns["text"].numpy(), strict=True
            ):
                [number_] = [
                    n
                    for n, known in enumerate(versions[identity])
                    if np.array_equal(known, text.ravel())
                ]
                own[identity, occurrence] = number_
        chosen.append(own)
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    for identity, known in versions.items():
        counts = Counter(version for (other, _), version in chosen[0].items() if other == identity)
        expected = epochs / len(known)
        deviation = (expected * (1 - 1 / len(known))) ** 0.5
        assert set(counts) == set(range(len(known)))
        assert all(abs(count - expected) <= 4 * deviation + 1e-9 for count in counts.values()), (
            counts
        )


def test_quality_tags_follow_a_score(tmp_path: Path, make_config: Make) -> None:
    folder = tmp_path / "images"
    draw(folder / "smooth.png", 1, (128, 128), "a thing")
    Image.effect_noise((128, 128), 100).convert("RGB").save(folder / "rough.png")
    Image.new("RGB", (128, 128), "teal").save(folder / "flat.png")
    config = make_config(
        held_out=0.0,
        quality={"scores": [{"name": "sharp", "kind": "sharpness", "options": {"side": 128}}]},
        captions={
            "quality_score": "sharp",
            "quality_tags": {"crisp": 100.0, "dull": 0.01},
            "trigger": "zwx",
        },
    )
    report = prepare(config)
    assert report.annotated == {"sharp": 3}
    found = rows(config)
    assert {path: row["captions"] for path, row in found.items()} == {
        "smooth.png": ["zwx, dull, a thing"],
        "rough.png": ["zwx, crisp"],
        "flat.png": ["zwx"],
    }
    assert found["flat.png"]["scores"] == [0.0]
    assert found["rough.png"]["scores"][0] > 100 > found["smooth.png"]["scores"][0] > 0.01


def test_captions_that_are_cut_are_told_once(
    source: Path, make_config: Make, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    (source / "00.txt").write_text("a red cat " * 12)
    (source / "01.txt").write_text("a blue dog " * 12)
    config = make_config()
    report = prepare(config)
    assert report.cut == 2
    said = (
        "2 captions encoded now are longer than 75 tokens, whose end was cut off; set "
        "model.max_tokens = 150"
    )
    assert said in report.notes
    show(report, Console(width=300))
    assert f"note: {said}" in capsys.readouterr().out
    again = prepare(config)
    assert (again.cut, again.notes) == (0, ())
    longer = parse(config.values() | {"model": {"path": model, "max_tokens": 225}})
    assert prepare(longer).cut == 0
