"""Run a script that needs `torchvision.transforms` where torchvision is missing:
`python stand_in.py SCRIPT [ARGUMENT ...]`.

On machines without a GPU the registry's torchvision cannot be imported. The few transforms that
diffusers' training scripts use are done here with Pillow, as torchvision does them on Pillow's
images: the same calls, so about the same time. The libraries look for torchvision before the
stand-in is there, and so do without it, as they do anywhere that lacks it.
"""

from __future__ import annotations

import random
import runpy
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class InterpolationMode(Enum):
    """Names of Pillow's filters."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class Compose:
    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class Lambda:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, image: Any) -> Any:
        return self.function(image)


class Resize:
    """Make the shorter side `size` pixels long."""

    def __init__(
        self, size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR
    ) -> None:
        self.size, self.filter = size, Image.Resampling[interpolation.name]

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        short = min(width, height)
        return image.resize((width * self.size // short, height * self.size // short), self.filter)


class CenterCrop:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        return _crop(
            image,
            round((image.width - self.size) / 2),
            round((image.height - self.size) / 2),
            self.size,
        )


class RandomCrop(CenterCrop):
    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = (random.randint(0, side - self.size) for side in image.size)
        return _crop(image, left, top, self.size)


class RandomHorizontalFlip:
    def __call__(self, image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


class ToTensor:
    """Map an RGB image to (3, H, W) in [0, 1]."""

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)


class Normalize:
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


def _crop(image: Image.Image, left: int, top: int, size: int) -> Image.Image:
    return image.crop((left, top, left + size, top + size))


def install() -> None:
    """Put the stand-in where `from torchvision import transforms` finds it,
    once the libraries have looked."""
    import datasets  # noqa: F401 - both look as they are imported
    import diffusers  # noqa: F401
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        raise RuntimeError("torchvision is installed here: run the script itself")
    package, transforms = ModuleType("torchvision"), ModuleType("torchvision.transforms")
    for part in (
        InterpolationMode,
        Compose,
        Lambda,
        Resize,
        CenterCrop,
        RandomCrop,
        RandomHorizontalFlip,
        ToTensor,
        Normalize,
    ):
        setattr(transforms, part.__name__, part)
    package.transforms = transforms  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": package, "torchvision.transforms": transforms}


if __name__ == "__main__":
    del sys.argv[0], sys.path[0]
    install()
    runpy.run_path(sys.argv[0], run_name="__main__")
