"""How the pixels of a bucket are made from an image: resize, mirror, cut,
and the changes of an augmented version. Pure.

A `Transform` holds all of it (`render` applies it), so it is stored with each row and is part of
the row's content address. The order is fixed: the image is resized, mirrored, cut, its colors
changed, and placed on an extension of itself; so every coordinate is one of the resized and
already mirrored image. Whatever is drawn at random is a pure function of the image's identity, the
seed and the version's number: any machine draws the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

from raytrain.config.data import AugmentConfig, BucketConfig
from raytrain.data.buckets import Fit, Size
from raytrain.table import Interval


class Placement(NamedTuple):
    """Where a window lies in an image: resize to these two sides, mirror where asked,
    cut the window at (top, left)."""

    resized_width: int
    resized_height: int
    top: int
    left: int


class Color(NamedTuple):
    """Changes of color, applied in this order."""

    hue: float
    """Turn of the hue, 1 is the whole circle."""
    brightness: float
    contrast: float
    saturation: float
    """Factors; 1 changes nothing."""
    blur: bool
    """Gaussian blur of one pixel's radius."""


class Inset(NamedTuple):
    """Where the cut image lies in an outpainted bucket; around it is its own reflection,
    blurred."""

    width: int
    height: int
    top: int
    left: int


class Transform(NamedTuple):
    """Everything that determines the pixels of one version of an image."""

    placement: Placement
    flip: bool = False
    color: Color | None = None
    inset: Inset | None = None

    @property
    def crop_top(self) -> int:
        """Rows of the resized image above the bucket, which SDXL is conditioned on
        (0 where the image is extended upwards)."""
        return max(0, self.placement.top - (self.inset.top if self.inset else 0))

    @property
    def crop_left(self) -> int:
        """Columns of the resized, mirrored image left of the bucket, which SDXL is
        conditioned on."""
        return max(0, self.placement.left - (self.inset.left if self.inset else 0))

    def to_json(self) -> str:
        """Return `[resized_width,resized_height,top,left,flip,[color],[inset]]`;
        what is not there is left out at the end."""
        if self.inset or self.color:
            fields: list[Any] = [
                *self.placement,
                int(self.flip),
                self.color or [],
                self.inset or [],
            ]
            text = json.dumps(fields if self.inset else fields[:-1], separators=(",", ":"))
            return text.replace("true", "1").replace("false", "0")
        width, height, top, left = self.placement
        return f"[{width},{height},{top},{left}{',1' if self.flip else ''}]"

    @classmethod
    def from_json(cls, text: str) -> Transform:
        """Read what `to_json` wrote; raises ValueError or TypeError on anything else."""
        width, height, top, left, *more = json.loads(text)
        flip = bool(more[0]) if more else False
        color = Color(*more[1]) if len(more) > 1 and more[1] else None
        inset = Inset(*more[2]) if len(more) > 2 else None
        return cls(
            Placement(width, height, top, left),
            flip,
            color and color._replace(blur=bool(color.blur)),
            inset,
        )


def transforms(
    width: int,
    height: int,
    fit: Fit,
    buckets: BucketConfig,
    augment: AugmentConfig,
    identity: str,
    seed: int,
    center: tuple[float, float] | None = None,
    *,
    face: tuple[float, ...] | None = None,
    images: int = 0,
) -> tuple[Transform, ...]:
    """Return the distinct versions of an image in one bucket, the plain one first.

    `width` and `height` are the image's, as viewed; `center` is where `crop = "salience"` looks,
    (x, y) as fractions of the image, and `face` is (center x, center y, width, height) of its
    largest face, as such fractions too. Cuts, colors, zooms, outpaints and faces come in this
    order, each followed by its mirror image, then the copies that `up_to` asks for in a set of so
    many `images`. An image with less room than `crops` asks for gives as many cuts as it has.
    """
    bucket = fit.bucket
    eye = center if buckets.crop == "salience" else None
    if buckets.crop == "random":
        found = [Transform(place) for place in _cuts(fit, augment.crops, f"{identity}/{seed}")]
    else:
        found = [Transform(_aimed(fit.resized, bucket, eye))]
    own = _Drawn(width, height, fit, buckets, augment, f"{identity}/{seed}", eye)
    if augment.colors or augment.zooms or augment.outpaints or augment.faces:
        found += [own.color(number) for number in range(augment.colors)]
        found += [own.zoom(number) for number in range(augment.zooms)]
        found += [own.outpaint(number) for number in range(augment.outpaints)]
        found += [own.around(face, number) for number in range(augment.faces if face else 0)]
    if augment.flip:
        found = [version for one in found for version in (one, mirrored(one, bucket))]
    if images and images < augment.up_to:
        wanted = -(-augment.up_to // images)
        found += [own.copy(number) for number in range(wanted - len(dict.fromkeys(found)))]
    return tuple(dict.fromkeys(found)) if len(found) > 1 else tuple(found)


def mirrored(transform: Transform, bucket: Size) -> Transform:
    """Return the transform that shows the mirror image; mirroring twice is no change."""
    place, inset = transform.placement, transform.inset
    shown = inset.width if inset else bucket[0]
    return transform._replace(
        placement=place._replace(left=place.resized_width - shown - place.left),
        flip=not transform.flip,
        inset=inset and inset._replace(left=bucket[0] - inset.width - inset.left),
    )


def color_free(transform: Transform) -> Transform:
    """Return the same geometry with the colors left as they are, for a control image."""
    return transform._replace(color=None)


class _Drawn:
    """The augmented versions of one image in one bucket; version `number` of a kind has draws of
    its own."""

    def __init__(
        self,
        width: int,
        height: int,
        fit: Fit,
        buckets: BucketConfig,
        augment: AugmentConfig,
        key: str,
        eye: tuple[float, float] | None,
    ) -> None:
        self.size, self.fit, self.buckets, self.augment, self.key, self.eye = (
            (width, height),
            fit,
            buckets,
            augment,
            key,
            eye,
        )

    def color(self, number: int) -> Transform:
        """Other colors, and where cuts are drawn another cut."""
        name = f"color {number}"
        cut = self._cut(self.fit.resized, self.fit.bucket, f"{self.key}/{name} cut")
        return Transform(cut, color=self._color(name))

    def zoom(self, number: int) -> Transform:
        """A part of the image, drawn for each side and anywhere in it,
        resized to cover the bucket."""
        return Transform(self._part(f"zoom {number}"))

    def copy(self, number: int) -> Transform:
        """A part of the image with other colors."""
        return Transform(self._part(f"copy {number}"), color=self._color(f"copy {number} color"))

    def around(self, face: tuple[float, ...] | None, number: int) -> Transform:
        """A cut around a face, of a size drawn between those that show `face_range` of it; never
        enlarged for it, nor smaller than the bucket."""
        assert face is not None
        (width, height), bucket, augment = self.size, self.fit.bucket, self.augment
        least = max(bucket[0] / width, bucket[1] / height)
        side = max(face[2] * width, face[3] * height)
        low, high = (
            max(least, min(1.0, min(bucket) / (side * times)))
            for times in reversed(augment.face_range)
        )
        [draw] = itertools.islice(_draws(f"{self.key}/face {number}"), 1)
        scale = low + (high - low) * draw
        resized = max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))
        return Transform(_aimed(resized, bucket, (face[0], face[1])))

    def _color(self, name: str) -> Color:
        ranges = self.augment
        draws = _draws(f"{self.key}/{name}")
        return Color(
            _between(ranges.hue, next(draws)),
            _between(ranges.brightness, next(draws)),
            _between(ranges.contrast, next(draws)),
            _between(ranges.saturation, next(draws)),
            next(draws) < ranges.blur,
        )

    def _part(self, name: str) -> Placement:
        (width, height), bucket = self.size, self.fit.bucket
        draws = _draws(f"{self.key}/{name}")
        across, down = (
            _between(self.augment.zoom, next(draws)),
            _between(self.augment.zoom, next(draws)),
        )
        scale = max(bucket[0] / (width * across), bucket[1] / (height * down))
        if not self.buckets.upscale:
            scale = min(scale, 1.0)
        resized = (
            max(self.fit.resized[0], round(width * scale)),
            max(self.fit.resized[1], round(height * scale)),
        )
        part = max(bucket[0], round(resized[0] * across)), max(bucket[1], round(resized[1] * down))
        left, top = (
            _within(resized[0] - part[0], next(draws)),
            _within(resized[1] - part[1], next(draws)),
        )
        eye = None
        if self.eye:  # the same point, as a fraction of the part
            eye = (
                (self.eye[0] * resized[0] - left) / part[0],
                (self.eye[1] * resized[1] - top) / part[1],
            )
        inner = self._cut(part, bucket, f"{self.key}/{name} cut", eye)
        return Placement(*resized, top + inner.top, left + inner.left)

    def outpaint(self, number: int) -> Transform:
        """The image smaller, anywhere in the bucket."""
        bucket = self.fit.bucket
        draws = _draws(f"{self.key}/outpaint {number}")
        share = _between(self.augment.outpaint, next(draws))
        inner = max(1, round(bucket[0] * share)), max(1, round(bucket[1] * share))
        resized = (
            max(inner[0], round(self.fit.resized[0] * share)),
            max(inner[1], round(self.fit.resized[1] * share)),
        )
        top, left = (
            _within(bucket[1] - inner[1], next(draws)),
            _within(bucket[0] - inner[0], next(draws)),
        )
        place = self._cut(resized, inner, f"{self.key}/outpaint {number} cut")
        return Transform(place, inset=Inset(*inner, top, left))

    def _cut(
        self, resized: Size, window: Size, key: str, eye: tuple[float, float] | None = None
    ) -> Placement:
        if self.buckets.crop == "random":
            return _random_cut(resized, window, key)
        return _aimed(resized, window, eye or self.eye)


def _aimed(resized: Size, window: Size, eye: tuple[float, float] | None) -> Placement:
    """Cut at the center, or around a point as far as the image reaches."""
    across, down = resized[0] - window[0], resized[1] - window[1]
    if eye is None:
        return Placement(*resized, down // 2, across // 2)
    left, top = (
        round(eye[0] * resized[0] - window[0] / 2),
        round(eye[1] * resized[1] - window[1] / 2),
    )
    return Placement(*resized, min(max(top, 0), down), min(max(left, 0), across))


def _cuts(fit: Fit, number: int, key: str) -> list[Placement]:
    """Draw distinct cuts, as many as there is room for."""
    room = (fit.resized[0] - fit.bucket[0] + 1) * (fit.resized[1] - fit.bucket[1] + 1)
    found: dict[Placement, None] = {}
    for draw in count():
        found[_random_cut(fit.resized, fit.bucket, f"{key}/{draw}" if draw else key)] = None
        if len(found) == min(number, room):
            return list(found)
    raise AssertionError("unreachable")


def _random_cut(resized: Size, window: Size, key: str) -> Placement:
    """Cut anywhere, every place equally likely."""
    digest = hashlib.sha256(key.encode()).digest()
    across, down = resized[0] - window[0], resized[1] - window[1]
    top, left = (
        int.from_bytes(digest[:8]) * (down + 1) >> 64,
        int.from_bytes(digest[8:16]) * (across + 1) >> 64,
    )
    return Placement(*resized, top, left)


def _draws(key: str) -> Iterator[float]:
    """Draw numbers in [0, 1)."""
    for number in count():
        yield (
            int.from_bytes(hashlib.sha256(f"{key}/{number}".encode()).digest()[:8]) >> 11
        ) / 2**53


def _between(interval: Interval, draw: float) -> float:
    """Return a number of the interval to five decimals, enough for eight bits and short in
    JSON."""
    return round(interval[0] + (interval[1] - interval[0]) * draw, 5) + 0.0


def _within(room: int, draw: float) -> int:
    return int(draw * (room + 1))
