"""Near-duplicates: images that look the same although their bytes differ,
by the distance of perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

BITS = 64
LEAF = 512
"""So few hashes are compared each with each."""
BANDS = range(3, 33)
"""Into how many bands 64 bits may be cut: three have 22 bits at most,
whose values make a table of four million entries."""
CHUNK = 2**22
"""Pairs in memory at once."""

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]


def perceptual_hash(image: Image.Image) -> int:
    """Return 64 bits that hardly change when an image is resized,
    recompressed or a little brighter: the "pHash" of the DCT.

    Luminance at 32x32, its discrete cosine transform, the 8x8 lowest frequencies without those of
    a row or column alone; a bit says whether one is above their median (Zauner 2010,
    "Implementation and Benchmarking of Perceptual Image Hash Functions"). The image is averaged
    over areas, where Zauner blurs it with a 7x7 mean. A flat image's hash is 0.
    """
    light = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    waves = (
        fft.dctn(light, norm="ortho")[1:9, 1:9].round(6).ravel()
    )  # without rounding a flat image's bits would be noise
    return int.from_bytes(np.packbits(waves > np.median(waves)).tobytes())


def near_duplicates(hashes: Hashes, distance: int) -> Positions:
    """Return for each of N hashes the position of the earliest kept one within `distance`
    differing bits, -1 where it is kept.

    Greedy in order: a hash is dropped when an earlier one that is kept itself is near. So the
    first of its kind stays, and a chain of small changes is not dropped as a whole. Exact for
    every distance of 0 to 63.

    Halving: the first half is settled, then the second half is compared with what the first one
    keeps, then what is left of it is settled by itself. Only kept hashes are ever compared with,
    so that many copies of few images cost little.
    """
    unique, first, copies = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    found = np.full(len(unique), -1, dtype=np.int64)
    _settle(unique[order], np.arange(len(unique)), distance, found)
    places = first[order]  # of the unique hashes, in order of their first occurrence
    near = np.where(found >= 0, places[found], -1)
    result = np.empty(len(unique), dtype=np.int64)
    result[order] = np.where(
        near >= 0, near, places
    )  # for copies: what the first of them is near to, or that one
    answer: Positions = result[copies]
    answer[first[order[near < 0]]] = -1
    return answer


def _settle(hashes: Hashes, members: Positions, distance: int, found: Positions) -> None:
    """Settle `members`, ascending positions in `hashes` that are near to nothing kept before them;
    write into `found`."""
    if len(members) <= LEAF:
        _settle_few(hashes, members, distance, found)
        return
    middle = len(members) // 2
    _settle(hashes, members[:middle], distance, found)
    kept = members[:middle][found[members[:middle]] < 0]
    rest = members[middle:]
    match = _earliest(hashes[kept], hashes[rest], distance)
    found[rest[match >= 0]] = kept[match[match >= 0]]
    _settle(hashes, rest[match < 0], distance, found)


def _settle_few(hashes: Hashes, members: Positions, distance: int, found: Positions) -> None:
    own = hashes[members]
    near = np.triu(np.bitwise_count(own[:, None] ^ own[None, :]) <= distance, 1)
    for row in np.flatnonzero(near.any(axis=1)):
        if found[members[row]] < 0:
            others = members[near[row]]
            found[others[found[others] < 0]] = members[row]


def _earliest(kept: Hashes, queries: Hashes, distance: int) -> Positions:
    """Return for each query the least position in `kept` within `distance` bits,
    -1 where there is none."""
    bands = min(BANDS, key=lambda number: _cost(number, distance, len(kept), len(queries)))
    if _cost(bands, distance, len(kept), len(queries)) < _PAIR * len(kept) * len(queries):
        match = _by_bands(kept, queries, distance, bands)
        if match is not None:
            return match
    return _by_all_pairs(kept, queries, distance)


_PAIR, _LOOKUP, _CANDIDATE, _ENTRY = 0.8, 20.0, 20.0, 20.0
"""Nanoseconds, about, of comparing a pair in a matrix, of looking up a band,
of checking a pair found so, of a table's entry."""


def _plan(bands: int, distance: int) -> Iterator[tuple[int, int, int]]:
    """Yield (shift, width, radius) of each band of the 64 bits.

    Two hashes that differ in at most d = r * bands + a bits differ in at most r bits of one of the
    first a + 1 bands, or in at most r - 1 bits of one of the others: otherwise they differed in (a
    + 1)(r + 1) + (bands - a - 1) r = d + 1 bits at least (Norouzi et al. 2014, "Fast Exact Search
    in Hamming Space with Multi-Index Hashing", arXiv:1307.2982).
    """
    radius, more = divmod(distance, bands)
    for number in range(bands):
        start, end = number * BITS // bands, (number + 1) * BITS // bands
        reach = radius if number <= more else radius - 1
        if reach >= 0:
            yield start, end - start, reach


def _cost(bands: int, distance: int, kept: int, queries: int) -> float:
    """Estimate nanoseconds of a search by bands if the hashes were random."""
    total = 0.0
    for _, width, radius in _plan(bands, distance):
        probes = sum(comb(width, flips) for flips in range(radius + 1))
        total += _ENTRY * 2**width + _LOOKUP * kept
        total += probes * queries * (_LOOKUP + _CANDIDATE * kept / 2**width)
    return total


def _by_bands(kept: Hashes, queries: Hashes, distance: int, bands: int) -> Positions | None:
    """Compare a query with the kept hashes that nearly agree in a band;
    None when they are too many for it to be worth it."""
    none, budget = len(kept), _PAIR / _CANDIDATE * len(kept) * len(queries)
    match = np.full(len(queries), none, dtype=np.int64)
    for shift, width, radius in _plan(bands, distance):
        mask = np.uint64(2**width - 1)
        values = (kept >> np.uint64(shift) & mask).astype(np.int64)
        ends = np.bincount(values, minlength=2**width).cumsum()
        order = np.argsort(values, kind="stable")
        asked = (queries >> np.uint64(shift) & mask).astype(np.int64)
        for flips in range(radius + 1):
            for places in combinations(range(width), flips):
                probe = asked ^ sum(1 << place for place in places)
                starts = np.where(probe > 0, ends[probe - 1], 0)
                counts = ends[probe] - starts
                budget -= int(counts.sum())
                if budget < 0:
                    return None
                for query, candidate in _pairs(starts, counts):
                    other = order[candidate]
                    near = np.bitwise_count(kept[other] ^ queries[query]) <= distance
                    np.minimum.at(match, query[near], other[near])
    return np.where(match == none, -1, match)


def _pairs(starts: Positions, counts: Positions) -> Iterator[tuple[Positions, Positions]]:
    """Yield (query, place) for every place in starts[query] ... + counts[query],
    some millions at a time."""
    asked = np.flatnonzero(counts)
    ends = counts[asked].cumsum()
    begin = 0
    while begin < len(asked):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + CHUNK)))
        some = counts[asked[begin:end]]
        query = np.repeat(asked[begin:end], some)
        offsets = np.repeat(starts[asked[begin:end]] - (ends[begin:end] - some - before), some)
        yield query, offsets + np.arange(len(query))
        begin = end


def _by_all_pairs(kept: Hashes, queries: Hashes, distance: int) -> Positions:
    """Compare every query with every kept hash, earliest first, until it is near to one."""
    match = np.full(len(queries), -1, dtype=np.int64)
    left = np.arange(len(queries))
    rows = 256
    for begin in range(0, len(kept), rows):
        some = kept[begin : begin + rows]
        step = CHUNK // len(some)
        for start in range(0, len(left), step):
            part = left[start : start + step]
            near = np.bitwise_count(some[:, None] ^ queries[part][None, :]) <= distance
            hit = near.any(axis=0)
            match[part[hit]] = begin + near[:, hit].argmax(axis=0)
        left = left[match[left] < 0]
        if not len(left):
            break
    return match
