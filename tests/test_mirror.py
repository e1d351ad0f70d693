"""Models on an object store: a copy on this machine, made once, of what is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raytrain import mirror, pretrained
from raytrain.errors import UserError
from tests.data.servers import s3


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """A store with a model's folder, and the address of that folder."""
    monkeypatch.setenv(mirror.FOLDER, str(tmp_path / "cache"))
    with s3("models") as (client, query):
        for name, content in (
            ("unet/config.json", b"{}"),
            ("unet/diffusion_pytorch_model.safetensors", b"weights"),
            ("unet/diffusion_pytorch_model.fp16.safetensors", b"half"),
            ("whole.safetensors", b"all in one"),
        ):
            client.put_object(Bucket="models", Key=f"sd/{name}", Body=content)
        yield client, f"s3://models/sd{query}"
    mirror._copied.cache_clear()
    pretrained.resolve.cache_clear()


def test_a_model_on_a_store_is_copied_once_and_anew_where_it_changes(
    store: tuple[Any, str],
) -> None:
    client, uri = store
    folder = pretrained.resolve(uri)
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sorted(files) == [folder / "unet/config.json", weights]  # none of what nothing reads
    written = weights.stat().st_mtime_ns
    _forget()
    assert pretrained.resolve(uri) == folder
    assert weights.stat().st_mtime_ns == written
    client.put_object(
        Bucket="models", Key="sd/unet/diffusion_pytorch_model.safetensors", Body=b"more weights"
    )
    _forget()
    other = pretrained.resolve(uri)
    assert other != folder
    assert (other / "unet/diffusion_pytorch_model.safetensors").read_bytes() == b"more weights"


def test_a_store_without_the_model_is_a_mistake(store: tuple[Any, str]) -> None:
    uri = store[1].replace("/sd?", "/sd2?")
    with pytest.raises(UserError, match="must be the folder of a model, but no file of one"):
        pretrained.resolve(uri)
    with pytest.raises(UserError, match="branch, tag or commit of a hub id"):
        pretrained.resolve(store[1], "main")


def _forget() -> None:
    """Be another process."""
    mirror._copied.cache_clear()
    pretrained.resolve.cache_clear()
