"""Masks of what a text names, by CLIPSeg (Lüddecke & Ecker 2022, arXiv:2112.10003),
for instance CIDAS/clipseg-rd64-refined.

The model says for each place how well it fits the prompt and how well it fits the empty text. The
mask is the softmax of the two over `temperature`, raised by `bias` so that nothing counts for
quite nothing, and scaled so that its largest value is white.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageFilter
from pydantic import Field

from raytrain.config.data import MaskConfig
from raytrain.data.annotate import pretrained
from raytrain.data.image.image import BadImage
from raytrain.data.masks import Masker
from raytrain.data.store.schema import content_key
from raytrain.errors import UserError
from raytrain.table import Table

READS_FILE = False


class Options(Table):
    """From the model's two logits to a mask."""

    temperature: float = Field(0.5, gt=0)
    """Lower makes the mask harder."""
    bias: float = Field(0.05, ge=0, le=1)
    """Added to the probability of the prompt."""
    threshold: float = Field(0.0, ge=0, le=1)
    """Above 0: places that reach this share of the largest value are white, the others black."""
    blur: float = Field(0.005, ge=0)
    """Radius of a last Gaussian blur, as a share of the image's width."""


def version(config: MaskConfig) -> str:
    """Return the hash over weights, prompt and settings."""
    weights = pretrained.weights_hash(config.path, "data.masks.path")
    return content_key("clipseg", weights, config.prompt, Options(**config.options).model_dump())


def load(config: MaskConfig) -> Masker:
    """Load CLIPSeg; UserError where there is no prompt."""
    if not config.prompt.strip():
        raise UserError(
            "data.masks.prompt is empty, so CLIPSeg has nothing to look for; name it, for "
            'instance prompt = "face".'
        )
    return _ClipSeg(config)


class _ClipSeg:
    def __init__(self, config: MaskConfig) -> None:
        from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

        self.options = Options(**config.options)
        self.model = pretrained.model(CLIPSegForImageSegmentation, config.path, "data.masks.path")
        self.processor = pretrained.image_processor(config.path, "data.masks.path")
        tokenizer: Any = pretrained.part(CLIPTokenizer, config.path, "data.masks.path")
        length = self.model.config.text_config.max_position_embeddings
        self.text = tokenizer(
            [config.prompt, ""],
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        ).to(self.model.device)

    def mask(
        self, image: Image.Image, *, file: Image.Image | None, alpha: Image.Image | None
    ) -> Image.Image:
        import torch

        pretrained.check(image)
        pixels = self.processor(images=[image, image], return_tensors="pt")["pixel_values"].to(
            self.model.device
        )
        with torch.inference_mode():
            logits = self.model(pixel_values=pixels, **self.text).logits
        fit = (
            torch.softmax(logits / self.options.temperature, dim=0)[0] + self.options.bias
        ).clamp(0, 1)
        if not torch.isfinite(fit).all():
            raise BadImage("CLIPSeg gave no number for it")
        values = (255 * fit / fit.max()).round().byte().cpu().numpy()
        mask = Image.fromarray(values).resize(image.size, Image.Resampling.BILINEAR)
        if self.options.threshold:
            limit = 255 * self.options.threshold
            mask = mask.point(lambda value: 255 * (value >= limit))
        return (
            mask.filter(ImageFilter.GaussianBlur(self.options.blur * image.width))
            if self.options.blur
            else mask
        )
