"""Scan every image once: content hash, size from the header, sidecar caption.

Tasks all over the cluster. What was found is kept in the dataset's catalog under the file's stamp;
a file whose stamp is known is not opened again.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raytrain import storage
from raytrain.config.data import DataConfig, FetchConfig
from raytrain.data.files.fetch import Fetcher
from raytrain.data.image import image, ready
from raytrain.data.image.image import BadImage
from raytrain.data.pipeline.listing import BLOCK
from raytrain.data.store import tables
from raytrain.text import decode

READERS = 8
"""Files read at a time in one task; reading waits for storage, not for the CPU."""
CAPTION_BYTES = 2**20
_fetchers: dict[str, Fetcher] = {}
_lock = threading.Lock()


def fetcher(config: FetchConfig) -> Fetcher:
    """Return this process's reader: its open archives and connections serve all jobs."""
    with _lock:
        name = config.model_dump_json()
        if name not in _fetchers:
            _fetchers[name] = Fetcher(config)
        return _fetchers[name]


def write_unscanned(items: str, catalog: str, unscanned: str) -> int:
    """Write the items that the catalog does not know to the table `unscanned`;
    return their number."""
    with tables.database(items=(items, tables.ITEMS), scans=(catalog, tables.SCANS)) as sql:
        found = sql.sql("SELECT * FROM items ANTI JOIN scans USING (key) ORDER BY number")
        return tables.write(unscanned, found.to_arrow_reader(BLOCK), tables.ITEMS, BLOCK)


def scan(job: dict[str, Any], data: DataConfig, catalog: str, passing: str) -> dict[str, Any]:
    """Scan the images of one row group; write what was found to `catalog`,
    transient faults to `passing`."""
    items = tables.read_group(job["uri"], job["group"]).to_pylist()
    with ThreadPoolExecutor(READERS) as pool:
        scans = list(pool.map(lambda item: _scan(item, data), items))
    name = f"{hashlib.sha256(b''.join(item['key'] for item in items)).hexdigest()}.parquet"
    for place, lasting in ((catalog, True), (passing, False)):
        lines = [line for line, stays in scans if stays == lasting]
        if lines:
            tables.write_rows(storage.join(place, name), lines, tables.SCANS)
    return {"rows": len(items)}


def caption_text(content: bytes) -> str:
    """Decode a caption file: UTF-8, or any Unicode encoding with a byte order mark.

    BadImage says what is wrong.
    """
    if len(content) > CAPTION_BYTES:
        raise BadImage(
            f"its caption file has {len(content)} bytes, more than {CAPTION_BYTES}: no caption"
        )
    try:
        return decode(content).strip()
    except ValueError as error:
        raise BadImage(f"its caption file {error}") from None


def _scan(item: dict[str, Any], data: DataConfig) -> tuple[dict[str, Any], bool]:
    """Return the line for the catalog, and whether scanning again would find the same."""
    line: dict[str, Any] = {"key": item["key"], "reason": ""}
    try:
        return line | _found(item, data), True
    except BadImage as error:
        return line | {"reason": str(error)}, True
    except OSError as error:
        return line | {"reason": f"cannot be read: {error}"}, False


def _found(item: dict[str, Any], data: DataConfig) -> dict[str, Any]:
    read = fetcher(data.fetch).read
    content = read(item["location"])
    found: dict[str, Any] = {"id": hashlib.sha256(content).digest(), "ready": ""}
    if ready.is_ready(item["location"]):
        facts = ready.read(content).facts
        (width, height), transparent = facts.original, False
        found["ready"] = facts.to_json()
    else:
        size, transparent = image.header(content, data.max_pixels)
        width, height = image.capped(size, data.max_side)
    found |= {"width": width, "height": height, "transparent": transparent}
    if item["caption_file"]:
        text = caption_text(read(item["caption_file"]))
        found["texts"] = [text] if text else []
    for name in ("mask", "control"):
        if item[name]:
            found[f"{name}_id"] = hashlib.sha256(read(item[name])).digest()
    if data.quality.near_duplicates is not None:
        if found["ready"]:
            raise BadImage(
                "data.quality.near_duplicates compares images, and it is cached latents"
            )
        from raytrain.data.pipeline.similar import perceptual_hash

        found["appearance"] = perceptual_hash(
            image.decode(content, data.max_pixels, data.background)
        )
    return found
