"""An archive at a web address, downloaded once into a folder and kept with its hash.

What arrived before a connection broke, or a command was killed, is kept on this machine and gone
on from, where the server can (`Range`, with `If-Range` so that no two versions are joined). An
address may end in `#sha256=...`, which what arrives must have.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raytrain import storage
from raytrain.config.data import FetchConfig
from raytrain.data.files.web import Web
from raytrain.data.image.image import BadImage
from raytrain.data.sources._shared.archives import is_archive
from raytrain.errors import UserError

FACTS = "download.json"
HASH = "#sha256="


def archive(url: str, folder: str, config: FetchConfig) -> str:
    """Return where in `folder` (local or in an object store) the file of an address is,
    downloaded unless it is there already.

    Raises UserError where it cannot be had, or is another than its address says.
    """
    address, _, wanted = url.partition(HASH)
    name = re.sub(r"[^\w.-]+", "_", unquote(urlsplit(address).path).rpartition("/")[2])
    place = storage.join(folder, hashlib.sha256(address.encode()).hexdigest()[:16])
    facts = storage.join(place, FACTS)
    if storage.exists(facts):
        known = storage.read_json(facts)
        target = storage.join(place, known["name"])
        whole = storage.exists(target) and storage.size(target) == known["bytes"]
        if whole and wanted.lower() in ("", known["sha256"]):
            return target
    with _partial(address) as part:
        try:
            Web(config).save(address, part)
        except (BadImage, OSError) as error:
            raise UserError(
                f"data.source {address!r} cannot be downloaded: {error}. Nothing was prepared; "
                "what arrived is kept and gone on from. Correct the address, or run the same "
                "command again."
            ) from error
        with open(part, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if wanted and wanted.lower() != found:
            os.remove(part)
            raise UserError(
                f"data.source {address!r} must have the sha256 {wanted}, but what arrived has "
                f"{found}; it is another file, and was deleted. Correct the hash or the address."
            )
        name = _named(name, part)
        target = storage.join(place, name)
        with storage.atomic(target) as temporary:
            shutil.copyfile(part, temporary)
        size = os.path.getsize(part)
        known = {"url": address, "name": name, "sha256": found, "bytes": size}
        storage.write_json(facts, known)
        os.remove(part)
    return target


def _named(name: str, part: str) -> str:
    """Return a name that says what archive a file is, also where its address does not."""
    if is_archive(name):
        return name
    with open(part, "rb") as stream:
        head = stream.read(262)
    endings = {".zip": head[:4] == b"PK\3\4", ".tar.gz": head[:2] == b"\x1f\x8b",
               ".tar": head[257:262] == b"ustar"}  # fmt: skip
    return f"{name or 'archive'}{next((end for end, own in endings.items() if own), '')}"


@contextlib.contextmanager
def _partial(address: str) -> Iterator[str]:
    """Give the file that holds what arrived; one of its own while another process downloads the
    same."""
    folder = Path(tempfile.gettempdir(), f"raytrain-downloads-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(address.encode()).hexdigest()
    with open(folder / f"{name}.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                yield os.path.join(own, "part")
        else:
            yield str(folder / f"{name}.part")
