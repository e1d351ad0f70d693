"""Small images enlarged by a model before they are resized for their bucket: Swin2SR (Conde et al.
2022, arXiv:2209.11345) and what else transformers loads as `Swin2SRForImageSuperResolution`, for
instance caidas/swin2SR-realworld-sr-x4-64-bsrgan-psnr."""

from __future__ import annotations

import threading

from PIL import Image

from raytrain.config.image import SuperResolutionConfig
from raytrain.data.annotate import pretrained
from raytrain.data.image.transform import Transform
from raytrain.data.store.schema import content_key

NAME = "super_resolution"
SETTING = "data.super_resolution.path"


def version(config: SuperResolutionConfig) -> str:
    """Return the hash over the weights; which images are enlarged is no part of it."""
    return content_key(NAME, pretrained.weights_hash(config.path, SETTING))


def wanted(config: SuperResolutionConfig, width: int, transform: Transform) -> bool:
    """Tell whether a version of an image of this width is made from the enlarged one.

    It is where the image is narrower than `below` times what it would be resized to
    (edenartlab/sd-lora-trainer).
    """
    return bool(config.path) and width < config.below * transform.placement.resized_width


class Enlarger:
    """The model, which serves one thread at a time."""

    def __init__(self, config: SuperResolutionConfig) -> None:
        """Load the model."""
        from transformers import Swin2SRForImageSuperResolution

        self.model = pretrained.model(Swin2SRForImageSuperResolution, config.path, SETTING)
        self.processor = pretrained.image_processor(config.path, SETTING)
        self.lock = threading.Lock()

    def enlarge(self, image: Image.Image) -> Image.Image:
        """Return an RGB image as many times larger as the model makes it; BadImage where it is too
        narrow to be shown to a model."""
        import torch

        pretrained.check(image)
        with self.lock, torch.inference_mode():
            shown = self.processor(images=image, return_tensors="pt")["pixel_values"]
            found = self.model(shown.to(self.model.device)).reconstruction[0]
        times = self.model.config.upscale
        # the processor pads at the right and below
        found = found[:, : times * image.height, : times * image.width]
        levels = (255 * found.float().clamp(0, 1)).round().byte().permute(1, 2, 0)
        return Image.fromarray(levels.cpu().numpy())
