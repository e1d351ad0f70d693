"""Rows whose latents come ready from another trainer's cache: planned and stored like others, but
nothing is decoded and the VAE is not asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from raytrain.config.data import DataConfig
from raytrain.data.columns import LATENTS, MASK
from raytrain.data.image import ready
from raytrain.data.image.image import BadImage
from raytrain.data.image.opening import read_bytes
from raytrain.data.image.ready import Facts, Ready
from raytrain.data.image.render import gray
from raytrain.data.image.transform import Placement, Transform, mirrored
from raytrain.data.store.fingerprint import Fingerprint
from raytrain.data.store.schema import bucket_size

EXACT = -30.0
"""The log-variance of latents that are one draw: their posterior is this draw, to 3e-7."""
NO_IMAGE = "its latents come ready from a cache, so there is no image"


def refused(line: Mapping[str, Any], data: DataConfig, fingerprint: Fingerprint) -> str:
    """Return why cached latents cannot be a row of this dataset; empty where they can."""
    facts, family = Facts.from_json(line["ready"]), ready.family_of(line["location"])
    augment = data.augment
    if LATENTS not in fingerprint.columns:
        return f"{NO_IMAGE} to encode in training (data.cache = false)"
    array = fingerprint.columns[LATENTS].arrays[LATENTS]
    if array.cell != ready.CELL or array.shape[0] not in (facts.channels, 2 * facts.channels):
        return (
            f"{facts.channels} channels of {ready.CELL} pixels a cell are no latents of a "
            f"{fingerprint.family} model"
        )
    if family and fingerprint.family in ("sd15", "sdxl") and family != fingerprint.family:
        return f"its name says latents of {family}, not of {fingerprint.family}"
    made = augment.colors, augment.zooms, augment.outpaints, augment.faces, augment.up_to
    if augment.crops > 1 or any(made):
        return f"{NO_IMAGE} to make the versions of [data.augment] from"
    if augment.flip and not facts.flipped:
        return "the cache has no latents of its mirror image, which data.augment.flip asks for"
    return ""


def versions(line: Mapping[str, Any], flip: bool) -> tuple[Transform, ...]:
    """Return the plain version, and its mirror image where asked."""
    bucket = Facts.from_json(line["ready"]).bucket
    plain = Transform(Placement(*bucket, 0, 0))
    return (plain, mirrored(plain, bucket)) if flip else (plain,)


def values(
    lines: list[dict[str, Any]], data: DataConfig, fingerprint: Fingerprint
) -> list[np.ndarray | BadImage]:
    """Return what is stored of one file's lines, without a row axis, or what is wrong."""
    try:
        found = ready.read(read_bytes(lines[0], "location", lines[0]["id"], data))
    except BadImage as error:
        return [error] * len(lines)
    return [_value(line, found, data, fingerprint) for line in lines]


def _value(
    line: dict[str, Any], found: Ready, data: DataConfig, fingerprint: Fingerprint
) -> np.ndarray | BadImage:
    transform = Transform.from_json(line["input"])
    if line["store"] == LATENTS:
        mean = found.flipped if transform.flip else found.latents
        assert mean is not None
        if fingerprint.columns[LATENTS].arrays[LATENTS].shape[0] == 2 * len(mean):
            mean = np.concatenate([mean, np.full_like(mean, EXACT)])
        return mean.astype(np.float16)
    if line["store"] == MASK:
        try:
            layer = _mask(line, found, data)
        except BadImage as error:
            return error
        bucket = bucket_size(line["bucket"])
        cells = bucket[0] // ready.CELL, bucket[1] // ready.CELL
        return gray(layer, transform, bucket, cells)
    return BadImage(f"{NO_IMAGE} to make its {line['store']} from")


def _mask(line: dict[str, Any], found: Ready, data: DataConfig) -> Image.Image:
    """Return the mask of the cut, in any size."""
    kind, levels = data.masks.kind, found.alpha
    if kind == "folder" and line["mask"] and ready.is_ready(line["mask"]):
        arrays = ready.read_arrays(read_bytes(line, "mask", line["mask_id"], data))
        levels = next(iter(arrays.values()), None)
    elif kind != "alpha":
        raise BadImage(f"{NO_IMAGE} to make a mask of kind {kind!r} from")
    if levels is None or levels.ndim != 2 or not levels.size:
        raise BadImage("the cache has no mask of it, (height, width), for data.masks")
    return Image.fromarray(np.rint(255 * levels.astype(np.float32).clip(0, 1)).astype(np.uint8))
