"""Finding pictures and their captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raytrain.data.scan import METADATA, scan
from raytrain.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_pictures_are_found_recursively_in_order_by_extension(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/z.JPG", "a/b/c.webp", "note.md", ".hidden.png", ".cache/d.png", "e.tiff")
    found, rejected = scan(str(tmp_path))
    assert [item.path for item in found] == ["a/b/c.webp", "a/z.JPG", "b.png", "e.tiff"]
    assert not rejected


def test_a_sidecar_is_named_by_the_stem_and_txt_comes_first(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.txt", "a.caption", "b.png", "b.caption", "c.png")
    found, _ = scan(str(tmp_path))
    assert [item.caption_file for item in found] == ["a.txt", "b.caption", ""]


def test_metadata_gives_captions_and_the_nearest_file_wins(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b.png", "sub/c.png")
    rows = [{"file_name": "a.png", "text": " of\n a "}, {"file_name": "sub/b.png", "text": "far"}]
    (tmp_path / METADATA).write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "sub" / METADATA).write_text('{"file_name": "b.png", "caption": "near"}\n')
    found, rejected = scan(str(tmp_path))
    assert {item.path: item.caption for item in found} == {"a.png": "of a", "sub/b.png": "near", "sub/c.png": ""}
    assert not rejected


def test_broken_metadata_lines_are_rejected_by_number_and_the_rest_counts(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    lines = [b'{"file_name": "a.png"', b"", b'["a.png"]', b'{"file_name": "a.png"}',
             b'{"file_name": "x.png", "text": "x"}',
             b'{"file_name": "a.png", "text": "\xff"}', b'{"file_name": "a.png", "text": "good"}']  # fmt: skip
    (tmp_path / METADATA).write_bytes(b"\n".join(lines))
    found, rejected = scan(str(tmp_path))
    assert found[0].caption == "good"
    assert [item.reason.split(":")[0] for item in rejected] == ["line 1", "line 3", "line 4", "line 5", "line 6"]
    assert "'x.png' is not there" in rejected[3].reason


def test_links_are_followed_but_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "pictures/a.png", "elsewhere/b.png")
    (tmp_path / "pictures/loop").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures/link").symlink_to(tmp_path / "elsewhere")
    found, _ = scan(str(tmp_path / "pictures"))
    assert [item.path for item in found] == ["a.png", "link/b.png"]


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "none"])
def test_a_source_without_pictures_is_a_user_error(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, "file", "empty/readme.md")
    with pytest.raises(UserError, match=r"data\.source"):
        scan("" if kind == "none" else str(tmp_path / kind))
