"""gallery-dl is called where it is installed, and what it leaves is a source."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import data as command
from raytrain.data.sources import gallery_dl
from raytrain.data.tools.scrape import scrape
from raytrain.errors import UserError
from tests.data.sources.conftest import fill, listed, png

FACTS: dict[str, Any] = {
    "a.png": {"tags": ["red", "ball <b>x</b>"], "title": "not this"},
    "b.jpg": {"tag_string": "1girl long_hair", "content": "nor this"},
    "c.png": {"description": "<p>A &amp; B,\n two</p>"},
    "deep/d.webp": {"tags": {"artist": ["someone"], "general": ["toy"]}},
    "e.png": {"id": 3},
    "f.png": {"tags": [{"name": "blue"}, {"count": 1}], "caption": "x"},
}
CAPTIONS = {
    "a.png": ("red, ball x",),
    "b.jpg": ("1girl, long_hair",),
    "c.png": ("A & B, two",),
    "deep/d.webp": ("someone, toy",),
    "e.png": (),
    "f.png": ("blue",),
}
STAND_IN = f"""#!{sys.executable}
import json, pathlib, sys
if sys.argv[-1].endswith("/broken"):
    sys.exit(4)
folder = pathlib.Path(sys.argv[sys.argv.index("--directory") + 1])
assert sys.argv[1] == "--write-metadata" and sys.argv[-2] == "--", sys.argv
folder.mkdir(parents=True, exist_ok=True)
(folder / "1.png").write_bytes({png(5)!r})
(folder / "1.png.json").write_text(json.dumps({{"tags": [sys.argv[-1]]}}))
"""


def test_facts_next_to_images_are_their_captions(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {}
    for number, (name, facts) in enumerate(FACTS.items()):
        files |= {name: png(number), f"{name}.json": json.dumps(facts)}
    files |= {"e.txt": "a text", "g.png": png(9), "clip.mp4": b"x", "clip.mp4.json": "{}"}
    fill(tmp_path / "images", files | {"h.png": png(10), "h.png.json": "{"})
    found, refused = listed(tmp_path / "images", format="gallery_dl")
    by_path = {item.path: item for item in found}
    assert {path: item.captions for path, item in by_path.items()} == CAPTIONS | {"g.png": ()}
    assert by_path["e.png"].caption_file.endswith("e.txt")
    assert by_path["a.png"].caption_file == ""
    assert {item.path: item.reason.split(":")[0] for item in refused} == {
        "h.png": "its facts h.png.json cannot be read",
    }
    assert listed(tmp_path / "images")[0] == found, "recognized"
    before = by_path["a.png"].stamp
    (tmp_path / "images/a.png.json").write_text(json.dumps({"tags": ["something else"]}))
    again, _ = listed(tmp_path / "images", format="gallery_dl")
    changed = {item.path: item for item in again}["a.png"]
    assert changed.captions == ("something else",)
    assert changed.stamp != before, "so that it is scanned again"
    assert gallery_dl.recognizes(str(tmp_path / "images"))
    assert not gallery_dl.recognizes(str(tmp_path / "images/deep/none"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for gallery-dl on PATH."""
    program = tmp_path / "bin/gallery-dl"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


@pytest.mark.usefixtures("installed")
def test_the_command_has_the_images_downloaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scraped"
    assert command.main(["scrape", "https://example.org/-x", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "1 images in" in said
    assert 'format = "gallery_dl"' in said
    [item] = listed(folder, format="gallery_dl")[0]
    assert (item.path, item.captions) == ("1.png", ("https://example.org/-x",))


@pytest.mark.usefixtures("installed")
def test_a_failure_of_gallery_dl_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ended with code 4"):
        scrape("https://example.org/broken", str(tmp_path / "scraped"))


def test_without_gallery_dl_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["scrape", "https://example.org", str(tmp_path / "new")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "pip install gallery-dl" in said
    assert not (tmp_path / "new").exists()
