"""Reading locations: what is a file's own fault, what may pass,
and that nothing is read without limit."""

from __future__ import annotations

import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from raytrain.config.data import FetchConfig
from raytrain.data.files import web as web_module
from raytrain.data.files.fetch import Fetcher
from raytrain.data.files.location import Range, Unpacked, Zipped, child, write
from raytrain.data.image.image import BadImage
from tests.data.servers import Answer, content, s3, web

LIMITS = FetchConfig(timeout=0.5, retries=2, max_bytes=1000)


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(LIMITS, str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "LONGEST_WAIT", 0.01)


def in_turn(*answers: Answer) -> Answer:
    """Give the answers one after another, the last one repeatedly."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Answer nothing for as long as the test runs."""
    threading.Event().wait()


def trickle(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    while True:  # until the client has had enough
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n")


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    answers = {
        "/good": content(b"good"),
        "/repaired": in_turn(
            content(b"", 500), content(b"", 503, Retry_After="1"), content(b"repaired")
        ),
        "/broken": content(b"", 500),
        "/busy": content(b"", 429),
        "/loop": content(b"", 302, Location="/loop"),
        "/moved": content(b"", 301, Location="/good"),
        "/away": content(b"", 302, Location="file:///etc/passwd"),
        "/large": content(b"x" * 1001),
        "/large-unsaid": content(b"x" * 5000, length=-1),
        "/says-more": content(b"x" * 10, length=20),
        "/says-less": content(b"x" * 20, length=10),
        "/says-far-too-much": content(b"x", length=10**12),
        "/forbidden": content(b"", 403),
        "/hang": hang,
        "/hang-once": in_turn(hang, content(b"late")),
        "/hang-up": hang_up,
        "/trickle": trickle,
        "/endless": endless,
        "/a%20b": content(b"space"),
    }
    with web(answers) as address:
        yield address


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("good", b"good"),
        ("repaired", b"repaired"),
        ("moved", b"good"),
        ("hang-once", b"late"),
        ("a b", b"space"),
        ("says-less", b"x" * 10),
    ],
)
def test_the_web_is_read_and_what_passes_is_tried_again(
    site: str, fetcher: Fetcher, path: str, expected: bytes
) -> None:
    assert fetcher.read(f"{site}/{path}") == expected


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nothing", "404"),
        ("forbidden", "403"),
        ("loop", "more than 5 redirects"),
        ("away", "no web address"),
        ("large", "1001 bytes is above data.fetch.max_bytes = 1000"),
        ("large-unsaid", "above data.fetch.max_bytes"),
        ("says-far-too-much", "above data.fetch.max_bytes"),
        ("endless", "above data.fetch.max_bytes"),
    ],
)
def test_a_fault_of_the_file_is_for_good(
    site: str, fetcher: Fetcher, path: str, reason: str
) -> None:
    with pytest.raises(BadImage, match=reason):
        fetcher.read(f"{site}/{path}")


@pytest.mark.parametrize(
    ("path", "reason"),
    [("broken", "500, 3 times"), ("busy", "429"), ("hang", "Timeout"), ("hang-up", "3 times"),
     ("says-more", "broke off"), ("trickle", "bytes a second")],
)  # fmt: skip
def test_a_fault_that_may_pass_is_an_oserror(
    site: str, fetcher: Fetcher, path: str, reason: str
) -> None:
    with pytest.raises(OSError, match=reason):
        fetcher.read(f"{site}/{path}")


def test_a_server_that_is_not_there_may_come_back(fetcher: Fetcher) -> None:
    with pytest.raises(OSError, match="refused"):
        fetcher.read("http://127.0.0.1:9/x.png")


def test_threads_share_a_fetcher(site: str, tmp_path: Path, fetcher: Fetcher) -> None:
    (tmp_path / "local").write_bytes(b"local")
    places = [f"{site}/good", str(tmp_path / "local")] * 40
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(fetcher.read, places)) == [b"good", b"local"] * 40


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "device", "large", "loop"])
def test_a_local_name_that_is_no_readable_file(
    tmp_path: Path, fetcher: Fetcher, kind: str
) -> None:
    place = tmp_path / kind
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "large":
        place.write_bytes(b"x" * 1001)
    elif kind == "device":
        place = Path("/dev/zero")
    elif kind == "loop":
        place.symlink_to(place)
    with pytest.raises(OSError if kind == "loop" else BadImage):
        fetcher.read(str(place))


def test_names_of_any_bytes_are_read(tmp_path: Path, fetcher: Fetcher) -> None:
    for name in (b"caf\xe9\n.png", "größe %41#1?.png".encode()):
        file = os.path.join(os.fsencode(tmp_path), name)
        Path(os.fsdecode(file)).write_bytes(name)
        assert fetcher.read(write(os.fsdecode(file))) == name


def test_parts_of_archives(tmp_path: Path, fetcher: Fetcher) -> None:
    (tmp_path / "a").write_bytes(b"a" * 700)
    for name, mode in (
        ("x.tar", "w"),
        ("x.tar.gz", "w:gz"),
        ("x.tar.xz", "w:xz"),
        ("x.tar.bz2", "w:bz2"),
    ):
        with tarfile.open(tmp_path / name, mode, format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
            archive.add(tmp_path / "a", "a")
    assert fetcher.read(write(str(tmp_path / "x.tar"), Range(512, 700))) == b"a" * 700
    for name in ("x.tar.gz", "x.tar.xz", "x.tar.bz2"):
        assert fetcher.read(write(str(tmp_path / name), Unpacked(512, 700))) == b"a" * 700
    assert len(list((tmp_path / "cache").iterdir())) == 3
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("stored", b"b" * 600)
        archive.writestr("deflated", b"c" * 900, zipfile.ZIP_DEFLATED)
        entries = archive.infolist()
    parts = [
        Zipped(entry.header_offset, entry.compress_size, entry.file_size, entry.CRC)
        for entry in entries
    ]
    assert [fetcher.read(write(str(tmp_path / "x.zip"), part)) for part in parts] == [
        b"b" * 600,
        b"c" * 900,
    ]
    for wrong in (
        parts[1]._replace(size=800),
        parts[0]._replace(crc=1),
        parts[0]._replace(offset=3),
    ):
        with pytest.raises(BadImage, match="damaged zip"):
            fetcher.read(write(str(tmp_path / "x.zip"), wrong))
    with pytest.raises(BadImage, match="ends after"):
        fetcher.read(write(str(tmp_path / "x.tar"), Range(10**6, 10)))
    with pytest.raises(BadImage, match="max_bytes"):
        fetcher.read(write(str(tmp_path / "x.tar"), Range(0, 10**6)))


def test_a_changed_compressed_tar_is_unpacked_again(tmp_path: Path, fetcher: Fetcher) -> None:
    for letter in (b"a", b"b"):
        (tmp_path / "a").write_bytes(letter * 10)
        with tarfile.open(tmp_path / "x.tgz", "w:gz", format=tarfile.USTAR_FORMAT) as archive:
            archive.add(tmp_path / "a", "a")
        assert fetcher.read(write(str(tmp_path / "x.tgz"), Unpacked(512, 10))) == letter * 10


def test_an_object_store(fetcher: Fetcher) -> None:
    with s3("fetch") as (client, query):
        for key in ("a/b c%#?ü.png", "big"):
            client.put_object(
                Bucket="fetch", Key=key, Body=b"0123456789" * (1 if key != "big" else 200)
            )
        file = child(f"s3://fetch{query}", "a/b c%#?ü.png")
        assert fetcher.read(write(file)) == b"0123456789"
        assert fetcher.read(write(file, Range(2, 3))) == b"234"
        client.put_object(Bucket="fetch", Key="a/b c%#?ü.png", Body=b"0123456789abc")
        assert fetcher.read(write(file, Range(9, 4))) == b"9abc"
        with pytest.raises(BadImage, match="max_bytes"):
            fetcher.read(write(child(f"s3://fetch{query}", "big")))
        with pytest.raises(BadImage, match="not there"):
            fetcher.read(write(child(f"s3://fetch{query}", "none")))


def test_a_value_is_made_once_for_all_threads_and_again_after_a_fault(
    tmp_path: Path, fetcher: Fetcher
) -> None:
    made: list[int] = []
    gate = threading.Barrier(4)
    asked = threading.Semaphore(0)

    class Lock:
        """Counts who has looked whether the value is there."""

        lock = threading.Lock()

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()
            asked.release()

    fetcher._unpacked._lock = Lock()  # type: ignore[assignment]

    def make() -> str:
        made.append(1)
        for _ in range(4):
            asked.acquire()
        if len(made) == 1:
            raise OSError("passing")
        return "made"

    def ask(_: int) -> str:
        gate.wait()
        try:
            return fetcher._unpacked.get("key", make)
        except OSError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == ["passing"] * 4
        assert list(pool.map(ask, range(4))) == ["made"] * 4
    assert len(made) == 2
