"""Look at every source picture once: content hash, size from the header, caption. Decodes nothing.

Runs as Ray tasks, so a large source is read by the whole cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from raytrain import storage
from raytrain.config import DataConfig
from raytrain.data import flow, picture
from raytrain.data.plan import Picture
from raytrain.data.progress import Bars
from raytrain.data.scan import Found, Rejected, clean

BLOCK = 512
"""Pictures of one task."""
READERS = 8
"""Files read at a time in one task; reading waits for storage, not for the CPU."""
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "id", "caption", "reason")),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def inspect(found: Sequence[Found], data: DataConfig, bars: Bars) -> tuple[list[Picture], list[Rejected]]:
    """Return the usable pictures in order of their path, each content once, and the rejected ones with their reason.

    The captions are the source's own, without the trigger word; where there is none the caption is empty.
    """
    blocks = [_block(found[start : start + BLOCK]) for start in range(0, len(found), BLOCK)]
    settings = {"source": data.source, "max_pixels": data.max_pixels, "min_side": data.min_side}
    looks = []
    advance = bars("inspect", len(found))
    for look in flow.map_tasks(blocks, look_block, settings):
        looks.append(look)
        advance(1)
    first: dict[str, Picture] = {}
    rejected = []
    for look in sorted(looks, key=lambda look: str(look["path"])):
        if look["reason"]:
            rejected.append(Rejected(path=look["path"], reason=look["reason"]))
        elif look["id"] in first:
            rejected.append(Rejected(path=look["path"], reason=f"duplicate of {first[look['id']].path}"))
        else:
            first[look["id"]] = Picture(look["path"], look["id"], look["width"], look["height"], look["caption"])
    return list(first.values()), rejected


def look_block(block: pa.Table, source: str, max_pixels: int, min_side: int) -> pa.Table:
    """Look at the pictures of one block: columns `Found` in; path, id, caption, reason, width, height out."""
    found = [Found(**row) for row in block.to_pylist()]
    with ThreadPoolExecutor(READERS) as pool:
        looks = list(pool.map(lambda item: _look(item, source, max_pixels, min_side), found))
    return pa.Table.from_pylist(looks, schema=_SCHEMA)


def _block(found: Sequence[Found]) -> pa.Table:
    return pa.Table.from_pylist([item._asdict() for item in found])


def _look(found: Found, source: str, max_pixels: int, min_side: int) -> dict[str, Any]:
    look = {"path": found.path, "id": "", "caption": "", "reason": "", "width": 0, "height": 0}
    try:
        content = storage.read_bytes(storage.join(source, found.path))
        width, height = picture.measure(content, max_pixels)
        if min(width, height) < min_side:
            raise picture.BadPicture(f"{width}x{height}: a side is below data.min_side = {min_side}")
        identity = hashlib.sha256(content).hexdigest()
        return look | {"id": identity, "caption": _caption(found, source), "width": width, "height": height}
    except picture.BadPicture as error:
        return look | {"reason": str(error)}
    except UnicodeDecodeError as error:
        return look | {"reason": f"{found.caption_file} is no UTF-8 text (byte {error.start}); save it as UTF-8"}
    except OSError as error:
        return look | {"reason": f"cannot be read: {error}"}


def _caption(found: Found, source: str) -> str:
    if not found.caption_file:
        return found.caption
    content = storage.read_bytes(storage.join(source, found.caption_file))
    return clean(content.decode("utf-8-sig")) or found.caption
