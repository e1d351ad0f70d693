"""Aesthetic rating: the mean rating people of an AVA-like survey would give, predicted by a ResNet-50, over 10."""

from __future__ import annotations

import numpy
import torch
from PIL import Image
from torch import Tensor

from raytrain.evaluate.scorers import Better
from raytrain.evaluate.subject import Subject

BETTER: Better = "higher"
LABEL = "Aesthetic rating"
SIDE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and deviations, the ones the body was pretrained with."""
BATCH = 16


def score(subject: Subject) -> list[float]:
    """Return N ratings of about 0.1 to 1, one a picture."""
    ratings: list[float] = []
    for start in range(0, len(subject.pictures), BATCH):
        pixels = torch.stack([prepare(picture) for picture in subject.pictures[start : start + BATCH]])
        with torch.inference_mode():
            ratings += [float(v) for v in subject.judges.aesthetic(pixels.to(subject.judges.device)).cpu()]
    return ratings


def prepare(picture: Image.Image) -> Tensor:
    """Cut the centre square, resize it to 224 x 224 and normalise: picture -> (3, 224, 224)."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    square = picture.convert("RGB").crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(numpy.asarray(square, dtype=numpy.float32) / 255)
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)
