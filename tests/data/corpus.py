"""A folder of everything that can be wrong with a folder of images,
and of much that only looks wrong.

BAD: the image cannot be used, or its caption file cannot be read (training it without would be
silently wrong).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tests.data import corpus_good, corpus_images
from tests.data.corpus_images import MAGENTA, SIZE, image
from tests.data.test_image import save


class Wanted(NamedTuple):
    """What a good image must arrive with; an empty caption means none."""

    size: tuple[int, int]
    caption: str = ""


class Corpus(NamedTuple):
    """The folder, and its paths (relative, as they are shown) with what must become of each."""

    source: Path
    good: dict[str, Wanted]
    bad: dict[str, str]
    """Path -> words of the reason."""


NAMES = (
    "new\nline", "tab\tulator", "'single' \"double\"",
    "emoji \N{CAT} \N{ADULT}\u200d\N{MICROSCOPE}", "\u05e9\u05dc\u05d5\u05dd",
    "\u202eright to left", "n" * 251, "-leading-dash", "--help", "  spaces  ", "100%25 %s {}",
    "hash#question?", "back\\slash", "caf\u00e9", "cafe\u0301", "semi;colon & $HOME `ls` *",
    "s3:\\\\bucket", "a,b", "\x01control\x7f",
)  # fmt: skip
"""Stems of names that are unusual and right."""
CAPTIONS = {
    "mark-utf-8": (b"\xef\xbb\xbfa red cat", "a red cat"),
    "utf-16-le": ("a red cat".encode("utf-16"), "a red cat"),
    "utf-16-be": (b"\xfe\xff" + "a blue cat".encode("utf-16-be"), "a blue cat"),
    "nothing": (b"", ""),
    "white-space": (b" \r\n\t\n", ""),
    "lines": (b"a cat\r\non a mat\r\n", "a cat on a mat"),
    "emoji": ("a \N{CAT} cat".encode(), "a \N{CAT} cat"),
    "long": (b"cat, " * 5000 + b"cat", ""),
    "quotes": (b"a \"cat\", 'dog'\\n", "a \"cat\", 'dog'\\n"),
}
"""Stem -> bytes of a caption file, and the caption; `long` is only asked to arrive."""
BROKEN_CAPTIONS = {
    "invalid-utf-8": b"a cat \xff\xfe\xfd", "latin-1": "ein schöner Kater".encode("latin-1"),
    "windows-1252": "a \N{EN DASH} cat".encode("cp1252"),
    "shift-jis": "猫の写真".encode("shift-jis"),
    "cut-character": "a caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()[:-1],
    "nul-bytes": b"a cat\0\0\0", "utf-16-without-mark": "a cat".encode("utf-16-le"),
    "utf-16-of-odd-length": "a cat".encode("utf-16")[:-1], "half-a-surrogate": b"\xff\xfe\x00\xd8",
    "binary": save(image(900)), "of-10-MB": b"a cat, " * 1_500_000,
    "utf-32": b"\xff\xfe\0\0a\0\0\0",
}  # fmt: skip
"""Stem -> bytes of a caption file that tells no caption."""


def build(root: Path) -> Corpus:
    """Write the corpus below a folder."""
    corpus = Corpus(root / "source", {}, {})
    for name in ("bad", "good", "names", "captions", "links", "nan"):
        (corpus.source / name).mkdir(parents=True)
    (root / "elsewhere").mkdir()
    for bad in corpus_images.bad():
        (corpus.source / "bad" / bad.name).write_bytes(bad.content)
        corpus.bad[f"bad/{bad.name}"] = bad.reason
    for good in corpus_good.good():
        (corpus.source / "good" / good.name).write_bytes(good.content)
        corpus.good[f"good/{good.name}"] = Wanted(good.size)
    _names(corpus)
    _captions(corpus)
    _links(corpus, root / "elsewhere")
    for number in range(2):  # a test family's encoder answers NaN for this color
        _write(
            corpus.source / f"nan/{number}.png", save(Image.new("RGB", (32 + number, 32), MAGENTA))
        )
        corpus.bad[f"nan/{number}.png"] = "NaN"
    return corpus


def _names(corpus: Corpus) -> None:
    for seed, stem in enumerate(NAMES, 500):
        _good(corpus, f"names/{stem}.png", seed, "a cat" if len(stem) < 200 else "")
    for seed, stem in enumerate((b"latin-\xe9", b"\xff\xfe", b"cut-\xe7\x8c"), 530):
        folder = os.fsencode(corpus.source / "names") + b"/"
        _write(os.fsdecode(folder + stem + b".png"), save(image(seed)))
        _write(os.fsdecode(folder + stem + b".txt"), b"a cat")
        corpus.good[f"names/{stem.decode(errors='backslashreplace')}.png"] = Wanted(SIZE, "a cat")
    _good(corpus, "names/folder.png/inner.png", 540)
    (corpus.source / "names" / "empty-folder.png").mkdir()
    (corpus.source / "names" / "notes.md").write_text("no image, and not named like one")
    for stem in ("empty", "also-empty"):
        _write(corpus.source / f"names/{stem}.jpg", b"")
        corpus.bad[f"names/{stem}.jpg"] = "empty"


def _captions(corpus: Corpus) -> None:
    for seed, (stem, (content, caption)) in enumerate(CAPTIONS.items(), 600):
        _good(corpus, f"captions/{stem}.png", seed)
        corpus.good[f"captions/{stem}.png"] = Wanted(SIZE, caption)
        _write(corpus.source / f"captions/{stem}.txt", content)
    for seed, (stem, content) in enumerate(BROKEN_CAPTIONS.items(), 630):
        _write(corpus.source / f"captions/{stem}.png", save(image(seed)))
        _write(corpus.source / f"captions/{stem}{('.txt', '.caption')[seed % 2]}", content)
        corpus.bad[f"captions/{stem}.png"] = "caption"
    _good(corpus, "captions/folder.png", 660)
    (corpus.source / "captions" / "folder.txt").mkdir()
    for seed, stem in enumerate(("dangling", "pipe"), 661):
        _write(corpus.source / f"captions/{stem}.png", save(image(seed)))
        corpus.bad[f"captions/{stem}.png"] = "caption"
    (corpus.source / "captions" / "dangling.txt").symlink_to("nowhere.txt")
    os.mkfifo(corpus.source / "captions" / "pipe.txt")


def _links(corpus: Corpus, elsewhere: Path) -> None:
    links = corpus.source / "links"
    for seed, name in enumerate(("target.png", "folder/inside.png"), 700):
        _write(elsewhere / name, save(image(seed)))
    (links / "link.png").symlink_to(elsewhere / "target.png")
    (links / "linked").symlink_to(elsewhere / "folder")
    corpus.good.update({"links/link.png": Wanted(SIZE), "links/linked/inside.png": Wanted(SIZE)})
    for name, target in {
        "dangling.png": "nowhere.png",
        "itself.png": "itself.png",
        "there.png": "back.png",
        "back.png": "there.png",
        "through-a-file.png": "link.png/inner.png",
    }.items():
        (links / name).symlink_to(target)
        corpus.bad[f"links/{name}"] = "cannot be read"
    (links / "loop").symlink_to(corpus.source)
    corpus.bad["links/loop/"] = "loop"
    os.mkfifo(links / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(links, os.O_RDONLY)  # the whole path would be too long for a socket's name
        try:
            listener.bind(f"/proc/self/fd/{here}/socket.png")
        finally:
            os.close(here)
    (links / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "socket.png", "device.png"):
        corpus.bad[f"links/{name}"] = "not a regular file"
    if os.geteuid():  # root may read everything
        for seed, name in enumerate(("forbidden.png", "forbidden/inner.png"), 720):
            _write(links / name, save(image(seed)))
        (links / "forbidden.png").chmod(0)
        (links / "forbidden").chmod(0)
        corpus.bad.update(
            {"links/forbidden.png": "cannot be read", "links/forbidden/": "cannot be read"}
        )


def _good(corpus: Corpus, path: str, seed: int, caption: str = "") -> None:
    place = corpus.source / path
    _write(place, save(image(seed)))
    if caption:
        _write(place.with_suffix(".txt"), caption.encode())
    corpus.good[_shown(path)] = Wanted(SIZE, caption)


def _shown(path: str) -> str:
    """Return a path as people see it: control characters and backslashes as \\xNN,
    so that no two look alike."""
    return "".join(f"\\x{ord(c):02x}" if ord(c) < 32 or c in "\x7f\\" else c for c in path)


def _write(place: Path | str, content: bytes) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_bytes(content)
