"""Poses as control images: ViTPose (Xu et al. 2022, arXiv:2204.12484) finds 17 joints (COCO's),
drawn as OpenPose draws a body.

ViTPose needs a box around the person. Here that is the whole image, so it is meant for images
of one person; of several it finds one, or a mixture. The drawing follows what OpenPose ControlNets
were trained on: 18 joints, the neck being the middle of the shoulders, each joint and limb a hue
of its own, limbs at 60 % brightness. Hands and faces are not drawn.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

from PIL import Image, ImageDraw
from pydantic import Field

from raytrain.config.data import ControlConfig
from raytrain.data.annotate import pretrained
from raytrain.data.controls import Maker
from raytrain.data.store.schema import content_key
from raytrain.table import Table

READS_FILE = False
NECK = 1
FROM_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""OpenPose's joints (nose, neck, right arm, left arm, right leg, left leg, eyes, ears)
in COCO's numbers."""
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
    (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
"""Pairs of OpenPose's joints, in the order of their colors."""
COLORS = tuple(
    (round(255 * red), round(255 * green), round(255 * blue))
    for red, green, blue in (colorsys.hsv_to_rgb(number / 18, 1, 1) for number in range(18))
)
THICKNESS = 4 / 512
"""Radius of joints and half the width of limbs, as a share of the image's shorter side."""


class Joint(NamedTuple):
    """A point of the body in pixels."""

    x: float
    y: float


class Options(Table):
    """Settings of pose images."""

    certainty: float = Field(0.3, ge=0, le=1)
    """Joints with a lower score are not drawn."""


def version(config: ControlConfig) -> str:
    """Return the hash over weights and settings."""
    weights = pretrained.weights_hash(config.path, "data.controls.path")
    return content_key("pose", weights, Options(**config.options).model_dump())


def load(config: ControlConfig) -> Maker:
    """Load the ViTPose model of `path`."""
    return _Pose(config)


def draw(joints: list[Joint | None], size: tuple[int, int]) -> Image.Image:
    """Draw OpenPose's 18 joints, None where one is unknown, and the limbs between known ones,
    on black."""
    canvas = Image.new("RGB", size)
    pen = ImageDraw.Draw(canvas)
    radius = max(1.0, THICKNESS * min(size))
    for (one, other), color in zip(LIMBS, COLORS, strict=False):
        start, end = joints[one], joints[other]
        if start is not None and end is not None:
            dim = (int(0.6 * color[0]), int(0.6 * color[1]), int(0.6 * color[2]))
            pen.line((*start, *end), fill=dim, width=round(2 * radius))
    for joint, color in zip(joints, COLORS, strict=True):
        if joint is not None:
            pen.ellipse(
                (joint.x - radius, joint.y - radius, joint.x + radius, joint.y + radius),
                fill=color,
            )
    return canvas


class _Pose:
    def __init__(self, config: ControlConfig) -> None:
        from transformers import VitPoseForPoseEstimation

        self.certainty = Options(**config.options).certainty
        self.model = pretrained.model(VitPoseForPoseEstimation, config.path, "data.controls.path")
        self.processor = pretrained.image_processor(config.path, "data.controls.path")
        self.experts = int(getattr(self.model.config.backbone_config, "num_experts", 1))

    def make(self, image: Image.Image, *, file: Image.Image | None) -> Image.Image:
        import torch

        pretrained.check(image)
        boxes = [[[0.0, 0.0, float(image.width), float(image.height)]]]
        pixels = self.processor(image, boxes=boxes, return_tensors="pt")["pixel_values"].to(
            self.model.device
        )
        # ViTPose+ has an expert for each data set it learned; the first is COCO's
        which = (
            {"dataset_index": torch.zeros(1, dtype=torch.long, device=pixels.device)}
            if self.experts > 1
            else {}
        )
        with torch.inference_mode():
            output = self.model(pixel_values=pixels, **which)
        found = self.processor.post_process_pose_estimation(output, boxes=boxes)[0][0]
        places, scores = found["keypoints"].tolist(), found["scores"].tolist()
        known = [
            Joint(*place) if score >= self.certainty else None
            for place, score in zip(places, scores, strict=True)
        ]
        return draw(_openpose(known), image.size)


def _openpose(coco: list[Joint | None]) -> list[Joint | None]:
    joints = [None if number is None else coco[number] for number in FROM_COCO]
    left, right = coco[5], coco[6]
    if left is not None and right is not None:
        joints[NECK] = Joint((left.x + right.x) / 2, (left.y + right.y) / 2)
    return joints
