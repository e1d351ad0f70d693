"""Captions of a dataset rewritten together, for a concept that is described once."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raytrain.config import Config
from raytrain.data.prepare import prepare
from tests.data.chat_server import Server, serving
from tests.data.conftest import draw
from tests.data.contents import contents

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def model(question: dict[str, Any]) -> str:
    """Describe where asked to, else rewrite one caption or a list of them."""
    told, content = (message["content"] for message in question["messages"])
    if "Say in at most" in told:
        return "a gray fox"
    if not content.startswith("["):
        return f"TOK alone: {content}"
    return json.dumps([f"TOK with {text}" for text in json.loads(content)])


def captions(config: Config) -> dict[str, list[str]]:
    return {row["path"]: row["captions"] for (path, _), row in contents(config).items() if path}


def described(server: Server) -> list[dict[str, Any]]:
    return [each for each in server.questions
            if "Say in at most" in each["messages"][0]["content"]]  # fmt: skip


def make(server: Server, make_config: Make, **options: Any) -> Config:
    own = {"base_url": server.url, "model": "pen", "together": 50, "mode": "object", **options}
    rules = {"rewriter": "openai", "rewriter_options": own, "trigger": "sks"}
    return make_config(captions=rules, held_out=0.0)


def test_many_images_are_described_by_a_sample_and_rewritten_in_groups(
    tmp_path: Path, make_config: Make
) -> None:
    for number in range(54):
        draw(tmp_path / "images" / f"{number:02}.png", number, (16, 16), caption=f"image {number}")
    with serving(model) as server:
        config = make(server, make_config, describe="images")
        report = prepare(config)
        [question] = described(server)
        text, *sheets = question["messages"][1]["content"]
        assert len(json.loads(text["text"])) == 50
        sizes = []
        for sheet in sheets:
            content = base64.b64decode(sheet["image_url"]["url"].partition(",")[2])
            with Image.open(io.BytesIO(content)) as image:
                sizes.append(image.size)
        assert sizes == [(1024, 1024)] * 3 + [(512, 256)]
        joint = [each for each in server.questions if each is not question]
        assert [len(json.loads(each["messages"][1]["content"])) for each in joint] == [27, 27]
        assert all("a gray fox" in each["messages"][0]["content"] for each in joint)
        assert "the images were described as 'a gray fox'" in report.notes
        assert captions(config)["07.png"] == ["sks with image 7"]
        draw(tmp_path / "images" / "new.png", 99, (16, 16), caption="one more")
        server.questions.clear()
        assert prepare(config).annotated == {"openai": 1}
        [last] = server.questions
        assert "a gray fox" in last["messages"][0]["content"], "it is not described again"
        assert captions(config)["new.png"] == ["sks alone: one more"]


def test_of_two_images_nothing_is_described(tmp_path: Path, make_config: Make) -> None:
    for number in range(2):
        draw(tmp_path / "images" / f"{number}.png", number, caption=f"image {number}")
    with serving(model) as server:
        config = make(server, make_config, describe="captions")
        report = prepare(config)
        assert not described(server)
    [note] = [note for note in report.notes if "too few to describe" in note]
    assert "rewriter_options.concept" in note
    assert captions(config)["1.png"] == ["sks alone: image 1"]
