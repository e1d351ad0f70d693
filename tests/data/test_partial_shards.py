"""An encoder that dies in the middle of a shard loses less than a row group of work,
or what it did since seconds ago."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raytrain import storage
from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.pipeline import plan_encoding
from raytrain.data.pipeline.encode import Row, ShardEncoder
from raytrain.data.prepare import prepare
from raytrain.data.store import partial_shards, tables
from tests.data.conftest import draw

pytestmark = pytest.mark.usefixtures("here")
GROUP = 4


class KilledError(Exception):
    """Stands for the end of a process: nothing of the encoder's code runs after it."""


@pytest.fixture
def config(tmp_path: Path, make_config: Callable[..., Config]) -> Config:
    """Thirty images of one shape, which are one shard."""
    for number in range(30):
        draw(tmp_path / "images" / f"{number:02}.png", number, caption=f"image {number}")
    return make_config(held_out=0.0, encode={"batch": 2, "group_rows": GROUP})


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[bytes]]:
    """Return a function that lets the encoder die after so many batches,
    and gives the list of what was encoded since."""
    original = ShardEncoder._encode
    monkeypatch.setattr(partial_shards, "SECONDS", 0.0)

    def after(batches: int | None) -> list[bytes]:
        done: list[bytes] = []

        def encode(self: ShardEncoder, name: str, values: Sequence[Any]) -> list[Row | None]:
            if len(done) == 2 * (batches or 1000):
                raise KilledError
            done.extend(value.line["key"] for value in values)
            return original(self, name, values)

        monkeypatch.setattr(ShardEncoder, "_encode", encode)
        return done

    return after


def test_a_preparation_takes_over_what_a_killed_one_had_made(
    config: Config, encoded: Callable[[int | None], list[bytes]]
) -> None:
    first = encoded(7)
    with pytest.raises(KilledError):
        prepare(config)
    second = encoded(None)
    report = prepare(config)
    assert len(first) == 14
    assert len(set(first) & set(second)) == 14 % GROUP
    assert len(set(first) | set(second)) == 30
    assert (report.kept, report.made["latents"], report.reused) == (30, 30 - 12, 30 + 12)
    dataset = Dataset(config.dataset)
    undisturbed = config.model_copy(
        update={"data": config.data.model_copy(update={"dataset": f"{config.dataset}-2"})}
    )
    encoded(None)
    prepare(undisturbed)
    other = Dataset(undisturbed.dataset)
    numbers = list(range(30))
    for bucket in dataset.counts():
        one, two = (found.rows(bucket, _array(numbers)) for found in (dataset, other))
        assert one.ids == two.ids
        assert one.columns["latents"].tobytes() == two.columns["latents"].tobytes()


def test_what_is_stored_is_not_stored_again(
    config: Config, encoded: Callable[[int | None], list[bytes]]
) -> None:
    for batches in (3, 3, 2):
        encoded(batches)
        with pytest.raises(KilledError):
            prepare(config)
    encoded(None)
    prepare(config)
    paths = plan_encoding.shards_of(config.dataset, "latents")
    keys = [key for path in paths for key in _keys(storage.join(config.dataset, path))]
    assert len(keys) == len(set(keys)) == 30


def test_the_next_attempt_at_a_job_continues_from_its_partial_shards(
    config: Config, encoded: Callable[[int | None], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ShardEncoder.__call__

    def again(self: ShardEncoder, job: dict[str, Any]) -> dict[str, Any]:
        try:
            return call(self, job)
        except KilledError:
            second.extend(encoded(None))
            done = encoded(None)
            report = call(
                ShardEncoder(
                    self.config, self.fingerprint, self.faults, self.partial_shards, self.done
                ),
                job,
            )
            second.extend(done)
            return report

    second: list[bytes] = []
    monkeypatch.setattr(ShardEncoder, "__call__", again)
    first = encoded(7)
    report = prepare(config)
    assert len(set(first) & set(second)) == 14 % GROUP
    assert len(second) == 30 - 12
    assert report.made["latents"] == 30
    [path] = plan_encoding.shards_of(config.dataset, "latents")
    assert len(set(_keys(storage.join(config.dataset, path)))) == 30
    assert not storage.names(storage.join(config.dataset, "work"))


def _keys(uri: str) -> list[bytes]:
    return [
        row["key"]
        for group in tables.groups_of(uri)
        for row in tables.read_group(uri, group["group"]).to_pylist()
    ]


def _array(numbers: list[int]) -> Any:
    import numpy as np

    return np.array(numbers)
