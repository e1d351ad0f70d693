"""What captioners see with `data.captions.cropped`: an image as its largest bucket shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from raytrain.config.data import AugmentConfig, BucketConfig
from raytrain.data import buckets
from raytrain.data.image.render import VERSION, pixels
from raytrain.data.image.transform import transforms
from raytrain.data.store.schema import content_key


class Cut(NamedTuple):
    """All that decides what of an image is shown, besides the image and the center of its mask."""

    buckets: BucketConfig
    seed: int
    mean_ratio: float

    @property
    def version(self) -> str:
        """The hash of the settings that count: the seed where cuts are drawn, the mean where the
        rule needs it."""
        return content_key(
            "cut",
            VERSION,
            self.buckets.model_dump(mode="json"),
            self.seed if self.buckets.crop == "random" else 0,
            self.mean_ratio if buckets.needs_mean(self.buckets) else 0,
        )

    def show(self, line: Mapping[str, Any], image: Image.Image) -> Image.Image:
        """Return the plain version of an image in its largest bucket; the whole image where it has
        no bucket, since it is left out later."""
        width, height, own = line["width"], line["height"], self.buckets
        fits = buckets.fits(width, height, own, self.mean_ratio)
        if not fits:
            return image
        center = line["center"] and tuple(line["center"])
        plain, *_ = transforms(
            width, height, fits[-1], own, AugmentConfig(), line["id"].hex(), self.seed, center
        )
        return Image.fromarray(pixels(image, plain, fits[-1].bucket, own.resample))
