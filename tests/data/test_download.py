"""Archives at web addresses: downloaded once, gone on from where they broke off, checked."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from raytrain import plan, storage
from raytrain.config import Config
from raytrain.config.data import FetchConfig
from raytrain.data.files import download
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from tests.data.conftest import draw
from tests.data.contents import contents
from tests.data.servers import Answer, content, web

Make = Callable[..., Config]
BODY = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives is kept here."""
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "kept"))


class Server:
    """Answers with a body that may break off; keeps what was asked for."""

    def __init__(self, body: bytes, breaks: int = 0, tag: str = '"one"') -> None:
        self.body, self.breaks, self.tag = body, breaks, tag
        self.asked: list[str] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range", "")
        self.asked.append(asked)
        same = handler.headers.get("If-Range", "") in ("", self.tag)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same else 0
        rest = self.body[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(rest)))
        if start:
            size = len(self.body)
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if self.tag:
            handler.send_header("ETag", self.tag)
        handler.end_headers()
        if self.breaks:
            self.breaks -= 1
            rest = rest[:100_000]
        handler.wfile.write(rest)
        handler.close_connection = True


def fetched(answer: Answer, folder: Path, retries: int = 2, name: str = "a.zip") -> bytes:
    with web({f"/{name}": answer}) as address:
        place = download.archive(
            f"{address}/{name}", str(folder), FetchConfig(timeout=20, retries=retries)
        )
    return Path(place).read_bytes()


def test_what_broke_off_is_gone_on_from(tmp_path: Path) -> None:
    server = Server(BODY, breaks=2)
    assert fetched(server, tmp_path / "files") == BODY
    assert server.asked == ["", "bytes=100000-", "bytes=200000-"]


def test_tries_count_from_the_last_that_brought_anything(tmp_path: Path) -> None:
    assert fetched(Server(BODY, breaks=2), tmp_path / "files", retries=1) == BODY


def test_a_later_command_goes_on_too(tmp_path: Path) -> None:
    server = Server(BODY, breaks=1)
    with web({"/a.zip": server}) as address:
        url, settings = f"{address}/a.zip", FetchConfig(timeout=20, retries=0)
        with pytest.raises(UserError, match=r"cannot be downloaded: the answer broke off"):
            download.archive(url, str(tmp_path / "files"), settings)
        place = download.archive(url, str(tmp_path / "files"), settings)
        assert Path(place).read_bytes() == BODY
        assert server.asked == ["", "bytes=100000-"]
        assert download.archive(url, str(tmp_path / "files"), settings) == place
        assert len(server.asked) == 2, "downloaded once"
    facts = storage.read_json(str(Path(place).parent / "download.json"))
    assert facts["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert not list((tmp_path / "kept").rglob("*.part*"))


def test_two_versions_are_never_joined(tmp_path: Path) -> None:
    other = np.random.default_rng(1).bytes(len(BODY))
    server = Server(BODY, breaks=1)

    def changing(handler: BaseHTTPRequestHandler) -> None:
        server(handler)
        server.body, server.tag = other, '"two"'

    assert fetched(changing, tmp_path / "files") == other
    untagged = Server(BODY, breaks=1, tag="")
    assert fetched(untagged, tmp_path / "others") == BODY
    assert untagged.asked == ["", ""], "nothing says that it is the same: from the start"


def test_a_hash_in_the_address_is_held(tmp_path: Path) -> None:
    good = hashlib.sha256(BODY).hexdigest()
    settings = FetchConfig(timeout=20, retries=0)
    with web({"/a.zip": content(BODY)}) as address:
        with pytest.raises(UserError, match="must have the sha256 0000"):
            download.archive(f"{address}/a.zip#sha256={'0' * 64}", str(tmp_path), settings)
        assert not list(tmp_path.glob("*/a.zip"))
        place = download.archive(f"{address}/a.zip#sha256={good}", str(tmp_path), settings)
    assert Path(place).read_bytes() == BODY


def test_an_address_that_is_none_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be downloaded: the server answered 404"):
        fetched(content(b"no", 404), tmp_path)


@pytest.mark.usefixtures("here")
def test_a_zip_on_the_web_is_a_source(tmp_path: Path, make_config: Make) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(3):
            draw(tmp_path / f"{number}.png", number, caption=f"image {number}")
            archive.write(tmp_path / f"{number}.png", f"inner/{number}.png")
            archive.write(tmp_path / f"{number}.txt", f"inner/{number}.txt")
    server = Server(packed.getvalue(), breaks=0)
    with web({"/get?id=7": server, "/photos.zip": server}) as address:
        for name, shown in (("photos.zip", "photos.zip"), ("get?id=7", "get.zip")):
            config = make_config(source=f"{address}/{name}", format="auto", held_out=0.0)
            if not server.asked:
                assert "is downloaded when" in plan.plan(config).dataset
            prepare(config)
            found = {path: row["captions"] for path, _ in contents(config) if path
                     for row in [contents(config)[path, "64x64"]]}  # fmt: skip
            assert found == {f"{shown}/inner/{n}.png": [f"image {n}"] for n in range(3)}
        again = len(server.asked)
        assert prepare(config).scanned == 0
        assert len(server.asked) == again
