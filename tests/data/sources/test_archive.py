"""Archives: zips and tars of any kind, their captions, and everything that is refused in them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raytrain.config.data import SubsetConfig
from raytrain.data import sources
from raytrain.data.files import stream
from raytrain.errors import UserError
from tests.data.sources.conftest import fill, listed, png

Read = Callable[[str], bytes]
FILES = {
    "a/b.png": png(1),
    "a/b.txt": b"b",
    "c.jpg": png(2),
    "c.caption": b"c",
    "readme.md": b"x",
    "__MACOSX/._c.jpg": b"x",
}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    stream = io.BytesIO()
    mode = {".tgz": "w:gz", ".txz": "w:xz", ".tbz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    content = stream.getvalue()
    path.write_bytes(
        pa.compress(content, "zstd", asbytes=True) if path.suffix == ".zst" else content
    )
    return path


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tgz", "x.txz", "x.tbz2", "x.tar.zst"])
def test_images_and_captions_are_found_and_read(tmp_path: Path, read: Read, name: str) -> None:
    items, rejected = listed(pack(tmp_path / name, FILES))
    assert [(item.path, read(item.location), read(item.caption_file)) for item in items] == [
        (f"{name}/a/b.png", png(1), b"b"), (f"{name}/c.jpg", png(2), b"c")]  # fmt: skip
    assert not rejected


def test_archives_of_the_usual_tools(tmp_path: Path, read: Read) -> None:
    fill(tmp_path, {"in/a b.png": png(1), "in/a b.txt": "a", "in/deep/größe.png": png(2)})
    subprocess.run(["tar", "-czf", "../x.tar.gz", "."], cwd=tmp_path / "in", check=True)
    items, rejected = listed(tmp_path / "x.tar.gz")
    assert {item.path: read(item.location) for item in items} == {
        "x.tar.gz/a b.png": png(1), "x.tar.gz/deep/größe.png": png(2)}  # fmt: skip
    assert not rejected


def test_a_folder_of_archives_and_masks_by_the_name_inside(tmp_path: Path, read: Read) -> None:
    pack(fill(tmp_path / "s", {"note.md": "x"}) / "2.zip", {"x.png": png(1)})
    pack(tmp_path / "s/1.tar", {"x.png": png(2)})
    assert [item.path for item in listed(tmp_path / "s")[0]] == ["1.tar/x.png", "2.zip/x.png"]
    fill(tmp_path / "masks", {"a/x.png": "mask"})
    items, _ = listed(pack(tmp_path / "x.zip", {"a/x.png": png(1)}), masks=str(tmp_path / "masks"))
    assert read(items[0].mask) == b"mask"


def test_an_object_store(tmp_path: Path, bucket: tuple[Any, str], read: Read) -> None:
    client, query = bucket
    for name in ("x.zip", "x.tar", "x.tgz"):
        client.upload_file(str(pack(tmp_path / name, FILES)), "images", f"archives/{name}")
        items, rejected = listed(f"s3://images/archives/{name}{query}")
        assert [(read(item.location), read(item.caption_file)) for item in items] == [
            (png(1), b"b"),
            (png(2), b"c"),
        ]
        assert not rejected


def test_what_is_unsafe_in_a_tar_is_refused_one_by_one(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in (
            "../up.png",
            "/abs.png",
            "a/../../b.png",
            "c:\\d.png",
            "good.png",
            "twice.png",
            "twice.png",
        ):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
        for name, kind in (
            ("sym.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("fifo.png", tarfile.FIFOTYPE),
            ("dev.png", tarfile.CHRTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "good.png"
            tar.addfile(entry)
        odd = tarfile.TarInfo("caf\udce9.png")
        tar.addfile(odd, io.BytesIO())
    items, rejected = listed(tmp_path / "x.tar")
    assert [item.path for item in items] == [
        "x.tar/good.png",
        "x.tar/twice.png",
        "x.tar/caf\\xe9.png",
    ]
    assert {
        item.path.removeprefix("x.tar/"): item.reason.split(";")[0].split(" (")[0]
        for item in rejected
    } == {
        "../up.png": "a name that leads out of the archive",
        "a/../../b.png": "a name that leads out of the archive",
        "/abs.png": "an absolute name in an archive",
        "c:\\x5cd.png": "an absolute name in an archive",
        "sym.png": "a link",
        "hard.png": "a link",
        "fifo.png": "not a regular file",
        "dev.png": "not a regular file",
        "twice.png": "the source names it twice",
    }


def test_what_is_unsafe_in_a_zip_is_refused_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SLACK", 2**20)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", b"abc")
        archive.writestr("../up.png", b"abc")
        archive.writestr("bomb.png", b"\0" * 2**23)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "good.png")
        archive.writestr("lzma.png", b"abc", zipfile.ZIP_LZMA)
        archive.writestr("secret.png", b"abc")
    content = (tmp_path / "x.zip").read_bytes()
    at = content.rindex(
        b"PK\x01\x02"
    )  # the last entry's line of the directory: set its flag "encrypted"
    (tmp_path / "x.zip").write_bytes(content[: at + 8] + b"\x01" + content[at + 9 :])
    items, rejected = listed(tmp_path / "x.zip")
    assert [item.path for item in items] == ["x.zip/good.png"]
    reasons = {item.path.removeprefix("x.zip/"): item.reason for item in rejected}
    assert {name: reason.split()[1] for name, reason in reasons.items()} == {
        "../up.png": "name",
        "bomb.png": "to",
        "link.png": "link;",
        "lzma.png": "by",
        "secret.png": "unpack",
    }


def test_many_small_entries_that_unpack_to_too_much_end_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SLACK", 10_000)
    monkeypatch.setattr(stream, "RATIO", 2)
    items, rejected = listed(
        pack(tmp_path / "x.zip", {f"{n:02}.png": b"\0" * 9000 for n in range(20)})
    )
    assert 0 < len(items) < 20 == len(items) + len(rejected)
    assert "unpacks to more than" in rejected[0].reason
    items, rejected = listed(
        pack(tmp_path / "x.tgz", {f"{n:02}.png": b"\0" * 9000 for n in range(20)})
    )
    assert 0 < len(items) < 20
    assert "unpacks to more than" in rejected[0].reason


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tgz"])
def test_a_damaged_archive_gives_what_comes_before(tmp_path: Path, read: Read, name: str) -> None:
    whole = pack(
        tmp_path / name, {f"{n}.png": bytes([n]) * 20_000 + png(n) for n in range(5)}
    ).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 3 // 5])
    if name == "x.zip":  # its directory is at its end
        with pytest.raises(UserError, match="damaged archive, not read further"):
            listed(tmp_path / name)
        return
    items, rejected = listed(tmp_path / name)
    assert 0 < len(items) < 5
    assert "damaged archive" in rejected[0].reason


def test_a_tar_damaged_in_the_middle_does_not_end_silently(tmp_path: Path) -> None:
    content = bytearray(
        pack(tmp_path / "x.tar", {f"{n}.png": b"x" * 600 for n in range(5)}).read_bytes()
    )
    content[1536 * 2 + 10] ^= 0xFF
    (tmp_path / "x.tar").write_bytes(content)
    items, rejected = listed(tmp_path / "x.tar")
    assert (len(items), len(rejected)) == (2, 1)


def test_a_stamp_tells_of_a_changed_archive(tmp_path: Path) -> None:
    stamps = []
    for caption in (b"a", b"b"):
        pack(tmp_path / "x.zip", {"a.png": png(1), "a.txt": caption})
        stamps.append(listed(tmp_path / "x.zip")[0][0].stamp)
    assert stamps[0] != stamps[1]


@pytest.mark.slow
def test_twenty_thousand_members_stream_with_flat_memory(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(20_000):
            tar.addfile(tarfile.TarInfo(f"{number % 10}/{number:06}.png"))
            tar.members = []  # type: ignore[attr-defined]
    tracemalloc.start()
    count = sum(1 for _ in sources.items(SubsetConfig(source=str(tmp_path / "x.tar"))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 2_000_000
