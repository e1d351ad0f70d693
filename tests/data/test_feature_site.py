"""Words for what an image site says in the source's records, and tags that become captions, back
into caption files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain.config import Config
from raytrain.config.captions import CaptionConfig
from raytrain.config.data import DataConfig
from raytrain.data.annotate.caption_text import compose
from raytrain.data.prepare import prepare
from raytrain.data.sources._shared import site
from raytrain.data.tools.convert import convert
from tests.data.conftest import draw
from tests.data.contents import contents

TABLE = {"masterpiece": 151.0, "best quality": 101.0, "high quality": 76.0,
         "medium quality": 26.0, "": 0.0, "low quality": -5.0, "worst quality": -1e9}  # fmt: skip
"""sd-trainer's: above 150, 100, 75 and 25; below 0, below -5."""
RULES: dict[str, Any] = {
    "quality_score": "site", "quality_tags": TABLE, "meta_tags": ["highres", "lowres"],
    "rating_words": {"g": "safe", "s": "questionable", "*": "nsfw"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"score": 151}, "masterpiece, a"),
        ({"score": 150, "rating": "g"}, "best quality, safe, a"),
        ({"score": "76", "rating": "s"}, "high quality, questionable, a"),
        ({"score": 26.0, "rating": "e"}, "medium quality, nsfw, a"),
        ({"score": 25}, "a"),
        ({"score": 0, "tag_string_meta": "highres translation_request"}, "highres, a"),
        ({"score": -5}, "low quality, a"),
        ({"score": -6, "tag_string_meta": "lowres"}, "worst quality, lowres, a"),
        ({"score": "unknown", "rating": ""}, "a"),
        ({}, "a"),
    ],
)
def test_words_follow_score_rating_and_meta_tags(record: dict[str, Any], expected: str) -> None:
    found = compose(["a"], CaptionConfig(**RULES), site=site.facts(record), identity="", seed=0)
    assert found == (expected,)


def test_tags_of_a_record_are_its_caption_in_the_order_of_their_kinds() -> None:
    record = {
        "tag_string_general": "1girl long_hair ^_^",
        "tag_string_artist": "some_one",
        "tag_string_character": "hatsune_miku",
        "tag_string_copyright": "vocaloid",
    }
    assert site.caption(record) == ("hatsune miku, vocaloid, some one, 1girl, long hair, ^_^",)
    assert site.caption({"tag_string_general": " "}) == ()


def test_no_score_may_be_named_as_the_site_s() -> None:
    with pytest.raises(ValueError, match='cannot be named "site"'):
        DataConfig.model_validate({"quality": {"scores": [{"name": "site", "kind": "sharpness"}]}})


@pytest.mark.usefixtures("here")
def test_words_reach_the_dataset_and_text_files(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    records: list[dict[str, Any]] = [
        {"file": "0.png", "score": 200, "rating": "g", "tag_string_general": "a_cat sitting"},
        {"file": "1.png", "text": "a dog", "score": -9, "rating": "q"},
        {"file": "2.png", "text": "a fox", "rating": "s"},
    ]
    for number in range(3):
        draw(tmp_path / f"{number}.png", number)
    (tmp_path / "list.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    captions = {**RULES, "trigger": "sks"}
    config = make_config(source=str(tmp_path / "list.jsonl"), format="auto", captions=captions)
    report = prepare(config)
    [note] = [note for note in report.notes if "score or rating" in note]
    assert note.startswith("1 images")
    expected = {
        "0.png": "sks, masterpiece, safe, a cat, sitting",
        "1.png": "sks, worst quality, nsfw, a dog",
        "2.png": "sks, questionable, a fox",
    }
    rows = {row["path"]: row["captions"] for (path, _), row in contents(config).items() if path}
    assert rows == {path: [text] for path, text in expected.items()}
    assert report.unused == ()
    plain = make_config(source=str(tmp_path / "list.jsonl"), format="auto")
    told = prepare(plain).notes
    assert any(note.startswith("the records of 3 images have a score") for note in told)
    convert(config.dataset, "txt", which="1")
    assert {
        file.with_suffix(".png").name: file.read_text() for file in tmp_path.glob("*.txt")
    } == (expected)
