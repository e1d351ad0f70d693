"""Folders: any tree of files, local or in an object store, listed one folder at a time."""

from __future__ import annotations

import os
import socket
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain.config.data import SubsetConfig
from raytrain.data import sources
from raytrain.data.item import Item
from raytrain.errors import UserError
from tests.data.servers import upload
from tests.data.sources.conftest import fill, listed, png

Read = Callable[[str], bytes]


def test_images_come_in_the_order_of_their_paths_with_their_sidecars(
    tmp_path: Path, read: Read
) -> None:
    names = [
        "b.png",
        "a/z.JPG",
        "a/b/c.webp",
        "e.tiff",
        "note.md",
        ".hidden.png",
        ".cache/d.png",
        "__MACOSX/b.png",
    ]
    fill(tmp_path, {name: name for name in names})
    fill(
        tmp_path,
        {"b.txt": "b", "b.caption": "no", "a/z.caption": "z", "Thumbs.db": "x", "other.txt": "x"},
    )
    items, rejected = listed(tmp_path)
    assert [item.path for item in items] == ["a/b/c.webp", "a/z.JPG", "b.png", "e.tiff"]
    assert [read(item.location).decode() for item in items] == [
        "a/b/c.webp",
        "a/z.JPG",
        "b.png",
        "e.tiff",
    ]
    assert [read(item.caption_file) if item.caption_file else b"" for item in items] == [
        b"",
        b"z",
        b"b",
        b"",
    ]
    assert not rejected


def test_names_of_any_bytes_are_listed_and_read(tmp_path: Path, read: Read) -> None:
    names = [b"caf\xe9/x\xff.png", b"line\nbreak.png", "größe 100%#?.png".encode(), b"a\\xff.png"]
    for name in names:
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(name)
    items, rejected = listed(tmp_path)
    assert {item.path: read(item.location) for item in items} == {
        "caf\\xe9/x\\xff.png": names[0],
        "line\\x0abreak.png": names[1],
        "größe 100%#?.png": names[2],
        "a\\x5cxff.png": names[3],
    }
    assert not rejected


def test_links_are_followed_but_no_loop_pipe_socket_or_device(tmp_path: Path, read: Read) -> None:
    source = fill(tmp_path / "source", {"real/a.png": "a", "b.txt": "x"})
    fill(tmp_path / "elsewhere", {"c.png": "c", "d/e.png": "e"})
    (tmp_path / "elsewhere/d/back").symlink_to(source)
    (tmp_path / "elsewhere/d/up").symlink_to(tmp_path)
    (tmp_path / "elsewhere/d/self").symlink_to(tmp_path / "elsewhere")
    (source / "out").symlink_to(tmp_path / "elsewhere")
    (source / "file.png").symlink_to(tmp_path / "elsewhere/c.png")
    (source / "dead.png").symlink_to(tmp_path / "nothing")
    (source / "own.png").symlink_to(source / "own.png")
    (source / "real/loop").symlink_to(source)
    os.mkfifo(source / "pipe.png")
    (source / "zero.png").symlink_to("/dev/zero")
    (source / "piped.png").write_bytes(b"p")
    os.mkfifo(source / "piped.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(source / "socket.png"))
        items, rejected = listed(source)
    assert {item.path: read(item.location) for item in items} == {
        "real/a.png": b"a", "out/c.png": b"c", "out/d/e.png": b"e", "file.png": b"c"}  # fmt: skip
    assert {item.path for item in rejected} == {
        "real/loop/", "out/d/back/", "out/d/up/", "out/d/self/",
        "dead.png", "own.png", "pipe.png", "zero.png", "socket.png", "piped.png"}  # fmt: skip
    assert all(not item.caption_file for item in items)


def test_what_the_subset_says_is_added_and_masks_are_found_by_stem(
    tmp_path: Path, read: Read
) -> None:
    source = fill(
        tmp_path / "source",
        {"a/x.jpg": "x", "y.png": "y", "masks/y.webp": "mask y", "masks/a/x.png": "mask x"},
    )
    fill(tmp_path / "controls", {"y.png": "control y", "note.txt": "x"})
    items, _ = listed(
        source,
        masks=str(source / "masks"),
        controls=str(tmp_path / "controls"),
        repeats=3,
        weight=0.5,
        regularization=True,
        prefix="p",
        suffix="s",
    )
    assert [
        (item.path, item.repeats, item.weight, item.regularization, item.prefix, item.suffix)
        for item in items
    ] == [("a/x.jpg", 3, 0.5, True, "p", "s"), ("y.png", 3, 0.5, True, "p", "s")]
    assert [read(item.mask) for item in items] == [b"mask x", b"mask y"]
    assert [read(item.control) if item.control else b"" for item in items] == [b"", b"control y"]


@pytest.mark.parametrize("changed", ["y.png", "y.txt", "masks/y.png"])
def test_a_stamp_tells_of_a_change_of_image_caption_or_mask(tmp_path: Path, changed: str) -> None:
    fill(tmp_path, {"y.png": "y", "y.txt": "t", "masks/y.png": "m", "z.png": "z"})
    before = {item.path: item.stamp for item in listed(tmp_path, masks=str(tmp_path / "masks"))[0]}
    status = (tmp_path / changed).stat()
    (tmp_path / changed).write_bytes(b"n")
    os.utime(
        tmp_path / changed, ns=(status.st_atime_ns, status.st_mtime_ns)
    )  # same size, same time of writing
    after = {item.path: item.stamp for item in listed(tmp_path, masks=str(tmp_path / "masks"))[0]}
    assert before["y.png"] != after["y.png"]
    assert before["z.png"] == after["z.png"] != ""


def test_an_object_store(tmp_path: Path, bucket: tuple[Any, str], read: Read) -> None:
    client, query = bucket
    fill(
        tmp_path,
        {
            "a b/c%.png": png(1),
            "a b/c%.txt": "c",
            "d.png": png(2),
            ".x/e.png": png(3),
            "masks/d.png": png(4),
        },
    )
    upload(client, "images", tmp_path, "my folder")
    items, rejected = listed(
        f"s3://images/my folder{query}", masks=f"s3://images/my folder/masks{query}"
    )
    assert [(item.path, read(item.location)) for item in items] == [
        ("a b/c%.png", png(1)),
        ("d.png", png(2)),
    ]
    assert read(items[0].caption_file) == b"c"
    assert read(items[1].mask) == png(4)
    assert all(item.stamp for item in items)
    assert not rejected


def test_the_store_of_the_environment_is_used(
    tmp_path: Path, bucket: tuple[Any, str], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, query = bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{query.partition('=')[2].partition('&')[0]}")
    client.put_object(Bucket="images", Key="plain/a.png", Body=b"a")
    items, _ = listed("s3://images/plain?region=us-east-1")
    assert [read(item.location) for item in items] == [b"a"]


@pytest.mark.parametrize(
    "kind", ["", "missing", "file", "empty", "pipes", "http://example.org/x", "s3"]
)
def test_a_source_without_images_is_a_user_error(
    tmp_path: Path, bucket: tuple[Any, str], kind: str
) -> None:
    fill(tmp_path, {"file": "x", "empty/readme.md": "x", "pipes/x": "x"})
    os.mkfifo(tmp_path / "pipes/a.png")
    source = {"": "", "s3": f"s3://images/nothing{bucket[1]}"}.get(
        kind, str(tmp_path / kind) if "://" not in kind else kind
    )
    with pytest.raises(UserError, match=r"data\.source .*(correct|Set|download|convert)"):
        listed(source)


def test_masks_that_are_no_folder_are_a_user_error(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": "x"})
    with pytest.raises(UserError, match=r"data\.masks must be a folder"):
        listed(tmp_path, masks=str(tmp_path / "nothing"))


def test_an_unreadable_folder_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, {"a.png": "x", "locked/b.png": "x"})
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items, rejected = listed(tmp_path)
    assert [item.path for item in items] == ["a.png"]
    assert [(item.path, item.reason) for item in rejected] == [
        ("locked/", "cannot be read: Permission denied")
    ]


def test_very_deep_folders(tmp_path: Path) -> None:
    depth = 1500
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    try:
        items, rejected = listed(tmp_path)
    finally:
        # pytest's own cleaning recurses, and such a tree would break it in every later session
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
    assert [item.path for item in items] == ["d/" * depth + "a.png"]
    assert not rejected


@pytest.mark.slow
def test_twenty_thousand_files_stream_with_flat_memory(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03}").mkdir()
        for file in range(200):
            (tmp_path / f"{number:03}" / f"{file:03}.png").touch()
    subset = SubsetConfig(source=str(tmp_path))
    tracemalloc.start()
    number, after_thousand = 0, 0
    for item in sources.items(subset):
        assert isinstance(item, Item)
        number += 1
        if number == 1000:
            tracemalloc.reset_peak()
            after_thousand = tracemalloc.get_traced_memory()[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 20_000
    assert peak - after_thousand < 300_000, "memory grows with the number of images"
