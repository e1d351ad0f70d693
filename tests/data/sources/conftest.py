"""Images as bytes, and what a source is asked for, read back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raytrain.config.data import FetchConfig, SubsetConfig
from raytrain.data import sources
from raytrain.data.files.fetch import Fetcher
from raytrain.data.item import UNUSED, Item, Rejected
from tests.data.servers import s3


def png(shade: int) -> bytes:
    """Return a small image of one gray, different for each shade."""
    stream = io.BytesIO()
    Image.new("L", (8, 8), shade).save(stream, "PNG")
    return stream.getvalue()


def fill(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def listed(source: str | Path, **settings: Any) -> tuple[list[Item], list[Rejected]]:
    """Return the items and the refused entries of a source; files that nothing uses are in
    `unused`."""
    found = everything(source, **settings)
    again = everything(source, **settings)
    assert found == again, "a source must yield the same in the same order every time"
    assert len({item.path for item in found if isinstance(item, Item)}) == sum(
        isinstance(f, Item) for f in found
    )
    for item in found:
        "".join(item.model_dump_json() if isinstance(item, Rejected) else map(str, item)).encode(
            "utf-8"
        )
    refused = [f for f in found if isinstance(f, Rejected) and f.rule != UNUSED]
    return [f for f in found if isinstance(f, Item)], refused


def everything(source: str | Path, **settings: Any) -> list[Item | Rejected]:
    """Return what a source holds: items, refused entries, and files that nothing uses."""
    return list(sources.every([SubsetConfig(source=str(source), **settings)]))


def unused(source: str | Path, **settings: Any) -> dict[str, str]:
    """Return the files of a source that nothing uses: path -> why."""
    found = everything(source, **settings)
    return {f.path: f.reason for f in found if isinstance(f, Rejected) and f.rule == UNUSED}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], bytes]:
    """Read locations."""
    return Fetcher(FetchConfig(timeout=5, retries=0), str(tmp_path / "unpacked")).read


@pytest.fixture(scope="session")
def bucket() -> Iterator[tuple[Any, str]]:
    """An S3 store on this machine: its client, and the query that names it in a URI of the bucket
    `images`."""
    with s3("images") as (client, query):
        yield client, query
