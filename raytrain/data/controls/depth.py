"""Depth as control images, near is white: any depth-estimation model of transformers
(DPT, Depth Anything, ZoeDepth ...).

The model's depths are resized to the image (bicubic) and scaled so that the smallest is 0 and the
largest 255.
"""

from __future__ import annotations

from PIL import Image

from raytrain.config.data import ControlConfig
from raytrain.data.annotate import pretrained
from raytrain.data.controls import Maker
from raytrain.data.image.image import BadImage
from raytrain.data.store.schema import content_key
from raytrain.table import Table

READS_FILE = False
UNUSED = r"fusion_stage\.layers\.0\.residual_layer1\."
"""Weights of DPT that no computation reads, and that its published files lack."""


class Options(Table):
    """Settings of depth images."""

    metric: bool | None = None
    """The model gives distances (larger is farther), as ZoeDepth does; default:
    as a Depth Anything model's settings say."""


def version(config: ControlConfig) -> str:
    """Return the hash over weights and settings."""
    weights = pretrained.weights_hash(config.path, "data.controls.path")
    return content_key("depth", weights, Options(**config.options).model_dump())


def load(config: ControlConfig) -> Maker:
    """Load the model of `path`."""
    return _Depth(config)


class _Depth:
    def __init__(self, config: ControlConfig) -> None:
        from transformers import AutoModelForDepthEstimation

        metric = Options(**config.options).metric
        self.model = pretrained.model(
            AutoModelForDepthEstimation, config.path, "data.controls.path", UNUSED
        )
        self.metric = (
            getattr(self.model.config, "depth_estimation_type", "") == "metric"
            if metric is None
            else metric
        )
        self.processor = pretrained.image_processor(config.path, "data.controls.path")

    def make(self, image: Image.Image, *, file: Image.Image | None) -> Image.Image:
        import torch

        pretrained.check(image)
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"].to(
            self.model.device
        )
        with torch.inference_mode():
            output = self.model(pixel_values=pixels)
        size = (image.height, image.width)
        depth = self.processor.post_process_depth_estimation(output, [size])[0][
            "predicted_depth"
        ].reshape(size)
        if not torch.isfinite(depth).all():
            raise BadImage("the depth model gave no number for it")
        near, far = depth.min(), depth.max()
        share = (depth - near) / (far - near) if far > near else torch.zeros_like(depth)
        values = (255 * (1 - share if self.metric else share)).byte().cpu().numpy()
        return Image.fromarray(values).convert("RGB")
