"""Which held-out images the loss is taken over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raytrain.held_out import plan


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40), min_size=1),
    st.integers(1, 60),
    st.integers(1, 3),
)
def test_as_many_are_taken_as_asked_in_proportion_to_the_buckets(
    counts: dict[str, int], limit: int, workers: int
) -> None:
    taken = dict.fromkeys(counts, 0)
    for bucket, rows in plan(counts, limit, workers):
        assert len(rows) % workers == 0
        taken[bucket] += int((rows >= 0).sum())
    total = sum(counts.values())
    assert sum(taken.values()) == min(limit, total)
    for bucket, count in counts.items():
        assert abs(taken[bucket] - count * min(1, limit / max(1, total))) < 1
