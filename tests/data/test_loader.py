"""The loader: batches made ahead are those made in turn, none is changed while it is held,
errors arrive, endings end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raytrain.batch import Columns
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Batch, Captions, Loader, Step, prefetch
from raytrain.data.loading.read import Dataset
from raytrain.data.store import schema
from tests import stored

TEXT = (3, 5)
ROWS = 23


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two buckets of random latents, masks and text, a third of the rows twice an epoch."""
    folder, random, buckets = str(tmp_path_factory.mktemp("dataset")), np.random.default_rng(0), {}
    for width, height in ((64, 64), (96, 48)):
        cells = (height // 8) * (width // 8)
        sizes = {"latents": 2 * 8 * cells, "mask": cells, "text": 2 * TEXT[0] * TEXT[1]}
        arrays = {
            name: {name: [random.bytes(size) for _ in range(ROWS)]} for name, size in sizes.items()
        }
        words = [""] * ROWS
        repeats = [2 if row % 3 == 0 else 1 for row in range(ROWS)]
        content = stored.Content(arrays, words, ["train"] * ROWS, words, repeats=repeats)
        buckets[schema.bucket_name(width, height)] = content
    text = stored.caption_column(text=("float16", TEXT))
    stored.write(folder, buckets, {"latents": stored.LATENTS, "mask": stored.MASK, "text": text})
    return Dataset(folder)


def loader(dataset: Dataset, **settings: int) -> Loader:
    return Loader(
        dataset,
        BatchSampler(dataset.counts(), batch=8, seed=1, epochs=2),
        captions=Captions(0.3),
        **settings,
    )


def tensors(batch: Batch) -> dict[str, Tensor]:
    assert "mask" in batch.columns
    return {"weights": batch.weights, **batch.columns}


def same(one: Batch, two: Batch) -> bool:
    """Compare bits: random ones may be no numbers."""
    assert (one.ids, one.occurrences) == (two.ids, two.occurrences)
    bits = [
        {name: tensor.numpy().tobytes() for name, tensor in tensors(batch).items()}
        for batch in (one, two)
    ]
    return bits[0] == bits[1]


def test_batches_made_ahead_are_those_made_in_turn_also_when_all_are_held(
    dataset: Dataset,
) -> None:
    numbers = range(loader(dataset).batch_sampler.total_steps)
    held = list(prefetch(loader(dataset, rank=1, world_size=3).step, numbers))
    alone = loader(dataset, rank=1, world_size=3)
    assert [step.number for step in held] == list(numbers)
    for step in held:
        again = alone.step(step.number)
        assert (step.epoch, step.bucket, step.global_rows) == (
            again.epoch,
            again.bucket,
            again.global_rows,
        )
        assert np.array_equal(step.live, again.live)
        assert same(step.batch, again.batch)


def test_rows_are_read_from_their_places(dataset: Dataset) -> None:
    """Against pyarrow, which decodes what the loader copies."""
    import pyarrow.parquet as pq

    for bucket, count in dataset.counts().items():
        rows = dataset.rows(bucket, np.arange(count))
        where = dataset.index(bucket).places["latents"].columns[dataset.index(bucket).entries]
        assert len(set(where[:, 0].tolist())) == 1, "a bucket has a shard of its own"
        path = Path(dataset.uri) / dataset.manifest.shards["latents"][where[0, 0]]
        column = pq.read_table(path)["latents"].to_pylist()
        assert rows.columns["latents"].tobytes() == b"".join(
            column[row] for row in where[:, 1].tolist()
        )


def test_padding_weighs_nothing(dataset: Dataset) -> None:
    batch_sampler = BatchSampler(dataset.counts(), batch=8, seed=1, epochs=1)
    steps = [
        Loader(dataset, batch_sampler, rank=2, world_size=3).step(number)
        for number in range(batch_sampler.total_steps)
    ]
    assert any(not step.live.all() for step in steps)
    for step in steps:
        assert torch.equal(step.batch.weights, torch.from_numpy(step.live).float())


def test_micro_batches_are_the_batch(dataset: Dataset) -> None:
    batch = loader(dataset).step(0).batch
    parts = batch.split(3)
    assert [len(part.ids) for part in parts] == [3, 3, 2]
    joined = {name: torch.cat([tensors(part)[name] for part in parts]) for name in tensors(batch)}
    ids, occurrences = (
        [i for part in parts for i in part.ids],
        [v for part in parts for v in part.occurrences],
    )
    assert same(batch, Batch(ids, occurrences, joined.pop("weights"), Columns(joined)))


def test_every_tensor_goes_to_the_device(dataset: Dataset) -> None:
    device = torch.device("meta")
    assert {
        tensor.device for tensor in tensors(loader(dataset).step(0).batch.to(device)).values()
    } == {device}


@pytest.mark.gpu
def test_pinned_batches_arrive_on_the_gpu(dataset: Dataset) -> None:
    steps = loader(dataset)
    for number in range(steps.batch_sampler.total_steps):
        batch = steps.step(number).batch
        pinned = batch.pin()
        assert all(tensor.is_pinned() for tensor in tensors(pinned).values())
        moved = pinned.to(torch.device("cuda"))
        del pinned  # its memory is used again only when the copy is done
        torch.cuda.synchronize()
        assert same(batch, moved.to(torch.device("cpu")))


def test_an_error_arrives_in_its_turn() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise OSError("the file was cut")
        return number

    made = prefetch(make, range(9))
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the file was cut"):
        next(made)


def test_no_more_is_made_ahead_than_asked_for_and_nothing_after_the_end() -> None:
    made: list[int] = []
    before = threading.active_count()
    steps = prefetch(lambda number: made.append(number) or number, range(50), depth=2)
    assert next(steps) == 0
    deadline = time.monotonic() + 120
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # time to make more, which it must not
    assert sorted(made) == [0, 1, 2]
    steps.close()  # type: ignore[attr-defined]
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert sorted(made) == [0, 1, 2]


def test_a_step_is_the_same_for_every_reader(dataset: Dataset) -> None:
    """Two threads read from one dataset at once."""
    steps = loader(dataset)
    alone = [steps.step(number) for number in range(4)]
    found: list[list[Step]] = [[], []]
    threads = [
        threading.Thread(target=lambda own=own: own.extend(map(steps.step, range(4))))
        for own in found
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own in found:
        assert all(same(one.batch, two.batch) for one, two in zip(alone, own, strict=True))


def test_as_many_captions_are_dropped_as_asked_and_become_the_empty_one(dataset: Dataset) -> None:
    def texts(dropout: float) -> Tensor:
        batch_sampler = BatchSampler(dataset.counts(), batch=8, seed=1, epochs=40)
        made = Loader(dataset, batch_sampler, captions=Captions(dropout), columns=("text",))
        steps = map(made.step, range(batch_sampler.total_steps))
        return torch.cat([step.batch.columns["text"] for step in steps])

    kept, some, none = (texts(dropout).view(torch.int16) for dropout in (0.0, 0.3, 1.0))
    empty = none[0]
    assert (none == empty).all(), "all are the empty caption's"
    dropped = (some == empty).flatten(1).all(1)
    assert not (kept == empty).flatten(1).all(1).any()
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.05)
    assert torch.equal(some[~dropped], kept[~dropped]), "the others are as they were"
