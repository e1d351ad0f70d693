"""The batch sampler: every row exactly epochs x repeats times, whatever the workers and
wherever a run was resumed."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raytrain.data.loading.batch_sampler import BatchSampler, share

HISTOGRAMS = st.dictionaries(
    st.sampled_from(["64x64", "80x48", "48x80", "96x32"]), st.integers(1, 23), min_size=1
)


def seen(batch_sampler: BatchSampler, world_size: int = 1) -> Counter[tuple[str, int, int]]:
    found: Counter[tuple[str, int, int]] = Counter()
    for step in range(batch_sampler.total_steps):
        batch = batch_sampler.at(step)
        for rank in range(world_size):
            positions = share(len(batch.rows), rank, world_size, batch_sampler.batch)
            assert len(positions) == -(-batch_sampler.batch // world_size)  # equal work
            for position in positions[positions >= 0]:
                found[
                    batch.bucket, int(batch.rows[position]), int(batch.occurrences[position])
                ] += 1
    return found


@example(
    {"64x64": 1, "80x48": 1}, 1, 1, 0, 1, 6
)  # batches larger than buckets: the last one was once lost
@given(
    HISTOGRAMS,
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 5),
    st.integers(1, 5),
    st.integers(1, 60),
)
def test_epochs_show_every_row_exactly(
    counts: dict[str, int], epochs: int, repeats: int, seed: int, world_size: int, batch: int
) -> None:
    batch_sampler = BatchSampler(counts, batch=batch, seed=seed, epochs=epochs, repeats=repeats)
    found = seen(batch_sampler, world_size)
    expected = {
        (b, r, v) for b, n in counts.items() for r in range(n) for v in range(epochs * repeats)
    }
    assert set(found) == expected
    assert set(found.values()) == {1}


@settings(max_examples=40)
@given(HISTOGRAMS, st.integers(1, 60), st.integers(0, 3), st.sampled_from([None, 3]))
def test_a_buckets_epoch_is_whole_when_it_says_so(
    counts: dict[str, int], batch: int, seed: int, epochs: int | None
) -> None:
    steps = 40 if epochs is None else None
    batch_sampler = BatchSampler(counts, batch=batch, seed=seed, epochs=epochs, steps=steps)
    for bucket, count in counts.items():
        for epoch in range(3):
            end = batch_sampler.shown_whole_at(bucket, epoch)
            if end > batch_sampler.total_steps:
                assert epochs is None
                continue
            batches = [batch_sampler.at(step) for step in range(end)]
            shown = [one.occurrences for one in batches if one.bucket == bucket]
            assert (np.concatenate(shown) == epoch).sum() == count


@settings(max_examples=40)
@given(HISTOGRAMS, st.integers(1, 9), st.integers(0, 3), st.data())
def test_a_step_depends_on_nothing_but_its_number(
    counts: dict[str, int], batch: int, seed: int, data: st.DataObject
) -> None:
    whole = BatchSampler(counts, batch=batch, seed=seed, steps=40)
    step = data.draw(st.integers(0, 39))
    first = [whole.at(n) for n in range(40)][step]
    again = BatchSampler(counts, batch=batch, seed=seed, steps=40).at(step)  # as after a resume
    assert (first.bucket, first.epoch) == (again.bucket, again.epoch)
    assert np.array_equal(first.rows, again.rows)
    assert np.array_equal(first.occurrences, again.occurrences)


def test_remainders_are_carried_into_the_next_epoch() -> None:
    batch_sampler = BatchSampler(
        {"64x64": 5}, batch=4, seed=0, epochs=4
    )  # 20 rows, no batch is short
    assert [len(batch_sampler.at(step).rows) for step in range(batch_sampler.total_steps)] == [
        4
    ] * 5
    short = BatchSampler({"64x64": 5}, batch=4, seed=0, epochs=3)
    assert sorted(len(short.at(step).rows) for step in range(short.total_steps)) == [3, 4, 4, 4]


def test_order_differs_between_epochs_and_seeds() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batch_sampler = BatchSampler({"64x64": 50}, batch=50, seed=seed, epochs=2)
        return [int(r) for r in batch_sampler.at(epoch).rows]

    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_no_rows_or_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        BatchSampler({"64x64": 0}, batch=4, seed=0, epochs=1)
    with pytest.raises(ValueError, match="epochs or steps"):
        BatchSampler({"64x64": 4}, batch=4, seed=0, epochs=1, steps=1)


def test_a_million_rows_plan_in_seconds() -> None:
    started = time.process_time()
    batch_sampler = BatchSampler(
        {f"{64 + n}x64": 100_000 for n in range(10)}, batch=256, seed=0, epochs=3
    )
    batch_sampler.at(0)
    batch_sampler.at(batch_sampler.total_steps - 1)
    assert time.process_time() - started < 5
