"""Whether the disk has room for a dataset's arrays, known before the first of them is encoded.

Preparation itself counts what is missing: images and captions have sizes and texts by then. A plan
and a rehearsal know the number of images alone and estimate.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Mapping

from raytrain import families, storage
from raytrain.config import Config
from raytrain.config.captions import CaptionConfig
from raytrain.config.data import SubsetConfig
from raytrain.data import buckets, columns, sources
from raytrain.data.files.location import is_web
from raytrain.data.image.transform import color_free, transforms
from raytrain.data.item import Item
from raytrain.data.store import shard
from raytrain.data.store.fingerprint import Fingerprint
from raytrain.data.store.schema import MANIFEST, bucket_name
from raytrain.errors import UserError

LISTED = 100_000
"""Images of a source that are counted."""
FACTOR = 1.5
"""An estimate from the number of images may be so many times too high or too low: images whose
sides are as 4 to 3 and twice as long as their bucket's stand for all, with a caption each."""
KEY = 32
"""Bytes of an array's content address, stored with it."""
LONGEST = 64 * 2**20
"""Bytes of a caption's arrays that no family exceeds; where a disk has room for these, text
encoders need not be looked at, which takes seconds."""

Missing = Mapping[str, Mapping[str, int]]
"""Arrays that are missing: column -> bucket ("" of captions) -> number."""


def check_missing(config: Config, fingerprint: Fingerprint, missing: Missing) -> None:
    """Raise UserError where a local disk has less room than the missing arrays take."""
    if not storage.is_local(config.dataset):
        return
    images = sum(
        count * (_image_bytes(fingerprint, name, bucket) + KEY)
        for name in fingerprint.names("image")
        for bucket, count in missing.get(name, {}).items()
    )
    captions = {name: missing[name][""] for name in fingerprint.names("caption") if missing[name]}
    if images + LONGEST * sum(captions.values()) <= _free(config):
        return
    each = caption_bytes(config, fingerprint)
    needed = images + sum(count * (each[name] + KEY) for name, count in captions.items())
    if needed > _free(config):
        count = sum(sum(counts.values()) for counts in missing.values())
        raise _refusal(config, f"The {count} arrays that are missing take", needed)


def check_estimate(config: Config) -> None:
    """Raise UserError where a local disk has less room than a dataset that is not yet made takes
    even if it is FACTOR times smaller than estimated; less what its folder already holds."""
    made = storage.exists(storage.join(config.dataset, MANIFEST))
    if made or not storage.is_local(config.dataset):
        return
    images = sum(count or 0 for _, count in listed(config))
    needed = int(sum(estimate(config, images).values()) / FACTOR)
    if needed > _free(config) + sum(file.bytes for file in storage.files(config.dataset)):
        raise _refusal(config, f"What {images} images are encoded to takes", needed)


def listed(config: Config) -> list[tuple[str, int | None]]:
    """Return each source and how many images it holds, at most LISTED; None of one that is
    downloaded when the images are prepared. A broken source is a UserError."""

    def count(subset: SubsetConfig) -> int | None:
        if is_web(subset.source):
            return None
        entries = itertools.islice(sources.items(subset), LISTED)
        return sum(isinstance(entry, Item) for entry in entries)

    return [(subset.source, count(subset)) for subset in config.data.all_subsets()]


def estimate(config: Config, images: int) -> dict[str, int]:
    """Estimate the bytes that each column stores of so many images."""
    fingerprint, data = Fingerprint.of(config), config.data
    largest = max(max(size) for size in buckets.all_sizes(data.buckets, 4 / 3))
    width, height = 2 * largest * 4 // 3, 2 * largest
    found: Counter[str] = Counter()
    for fit in buckets.fits(width, height, data.buckets, 4 / 3):
        versions = transforms(
            width, height, fit, data.buckets, data.augment, "", config.seed,
            face=(0.5, 0.5, 0.2, 0.2), images=images,
        )  # fmt: skip
        plain = {color_free(version) for version in versions}
        for name in fingerprint.names("image"):
            count = len(versions if columns.load(name).COLORS else plain)
            each = _image_bytes(fingerprint, name, bucket_name(*fit.bucket)) + KEY
            found[name] += images * count * each
    for name, each in caption_bytes(config, fingerprint).items():
        found[name] = (images * _texts(data.captions) + 1) * (each + KEY)
    return dict(found)


def caption_bytes(config: Config, fingerprint: Fingerprint) -> dict[str, int]:
    """Return the bytes that each caption column stores of a caption: as the empty caption tells
    where it is encoded, else as the column says; 0 of one that cannot say."""
    family, found = families.load(config.model.family), {}
    for name in fingerprint.names("caption"):
        arrays = shard.read_arrays(config.dataset, name, fingerprint.empty_key(name))
        if arrays is None:
            say = getattr(columns.load(name), "arrays", None)
            arrays = say(config, family) if say else {}
        found[name] = sum(array.bytes_in("") for array in arrays.values())
    return found


def _image_bytes(fingerprint: Fingerprint, name: str, bucket: str) -> int:
    return sum(array.bytes_in(bucket) for array in fingerprint.columns[name].arrays.values())


def _texts(captions: CaptionConfig) -> int:
    """Return how many texts are stored of a caption."""
    return captions.variants * (1 + captions.warmup_stages)


def _free(config: Config) -> int:
    return shutil.disk_usage(storage.parent(config.dataset)).free


def _refusal(config: Config, what: str, needed: int) -> UserError:
    return UserError(
        f"{what} about {needed / 2**20:.0f} MiB, but the disk of data.dataset = "
        f"{config.dataset!r} has {_free(config) / 2**20:.0f} MiB free; encoding would stop in the "
        "middle. Free some space, choose another data.dataset, or store less: fewer resolutions "
        "and augmented versions, or data.cache = false."
    )
