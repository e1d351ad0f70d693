"""Keep a few images that stand for all: what a rehearsal prepares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raytrain.config.data import DataConfig
from raytrain.data import buckets
from raytrain.data.store import tables

LOOKED = 1000
"""Images of all sources together that a rehearsal looks at."""


def choose(
    images: str, data: DataConfig, mean_ratio: float, few: str, words: Sequence[str] = ()
) -> dict[str, int]:
    """Write one image of each bucket to the table `few`, and return the number of images and of
    buckets.

    Those that differ in what they bring (captions, mask, control, regularization) count as of
    different buckets. Of each the one with the largest hash is taken, which is the last to be held
    out, among those from which something is learned: of a weight, and with one of the method's new
    `words`. Of all the one with the smallest hash is taken too, which is the first to be held out.
    Each counts once.
    """

    def rank(line: dict[str, Any]) -> tuple[bool, bool, bytes]:
        texts = " ".join(line["captions"])
        return line["weight"] > 0, any(word in texts for word in words), line["id"]

    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    first: dict[str, Any] | None = None
    for line in tables.read(images, tables.IMAGES):
        fits = buckets.fits(line["width"], line["height"], data.buckets, mean_ratio)
        sizes = tuple(fit.bucket for fit in fits)
        brings = (bool(line["captions"]), bool(line["mask"]), bool(line["control"]))
        group = (sizes, *brings, line["regularization"])
        if sizes and (group not in chosen or rank(line) > rank(chosen[group])):
            chosen[group] = line
        if sizes and not line["regularization"] and (first is None or line["id"] < first["id"]):
            first = line
    kept = {line["number"]: line for line in (*chosen.values(), *([first] if first else []))}
    rows = [kept[number] | {"repeats": 1} for number in sorted(kept)]
    tables.write_rows(few, rows, tables.IMAGES)
    return {"images": len(rows), "buckets": len({size for sizes, *_ in chosen for size in sizes})}
