"""The aesthetic predictor: a ResNet-50 body (He et al. 2016, arXiv:1512.03385)
with a five-layer rating head.

Written out here because torchvision must not be needed; the parameter names are torchvision's
under `model.`, so weights trained with it load unchanged. 24,729,665 parameters.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from raytrain import storage
from raytrain.errors import UserError

SIDE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and deviations, the ones the body was pretrained with."""

HEAD = (2048, 512, 256, 128, 64, 1)
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, number of blocks and stride of each stage."""
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut: (B, in, H, W) ->
    (B, 4 * width, H / stride, W / stride)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        """Make one block; the stride sits on the 3x3 convolution, as in torchvision."""
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(residual + shortcut)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x))
        return (x + shortcut).relu()


class ResNet50(nn.Module):
    """Images (B, 3, H, W) -> raw head output (B, 1)."""

    def __init__(self) -> None:
        """Build stem, four stages and the head with LeakyReLU(0.01) and Dropout(0.5)
        between its layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for number, (width, blocks, stride) in enumerate(STAGES, start=1):
            stage = []
            for block in range(blocks):
                stage.append(Bottleneck(channels, width, stride if block == 0 else 1))
                channels = width * EXPANSION
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        head: list[nn.Module] = []
        for inputs, outputs in pairwise(HEAD):
            head += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.01), nn.Dropout(0.5)]
        self.fc = nn.Sequential(*head[:-2])

    def forward(self, x: Tensor) -> Tensor:
        """Return the head's output on the spatial mean of the last stage."""
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, padding=1)
        for number in range(1, len(STAGES) + 1):
            x = getattr(self, f"layer{number}")(x)
        out: Tensor = self.fc(x.mean(dim=(2, 3)))
        return out


class AestheticModel(nn.Module):
    """Normalized images (B, 3, 224, 224) -> ratings (B,) of about 0.1 to 1:
    the predicted 1-10 rating over 10."""

    def __init__(self) -> None:
        """Build the network with random weights; `load` reads trained ones."""
        super().__init__()
        self.model = ResNet50()

    def forward(self, x: Tensor) -> Tensor:
        """Return the rating divided by 10."""
        rating: Tensor = self.model(x).squeeze(-1) / 10
        return rating


def check(path: str, setting: str = "evaluate.aesthetic") -> None:
    """Raise UserError where there is no safetensors file of the weights."""
    if not path.endswith(".safetensors"):
        raise UserError(
            f"{setting} must be a .safetensors file, got {path!r}. Convert a .pth file once with "
            "safetensors.torch.save_file(torch.load(file, weights_only=True), "
            "'aesthetic.safetensors')."
        )
    if not storage.exists(path):
        raise UserError(f"{setting} names a file that does not exist: {path!r}. Correct the path.")


def load(path: str, setting: str = "evaluate.aesthetic") -> AestheticModel:
    """Read weights from a safetensors file and return the model in evaluation mode.

    The head's layers are matched in their order, whatever their numbers: files differ in where the
    dropout sits.
    """
    check(path, setting)
    weights = _renumber_head(load_file(storage.fetch(path)))
    with torch.device("meta"):
        model = AestheticModel()
    expected = model.state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    problems = [name for name in expected.keys() - counters if name not in weights]
    problems += [
        name
        for name in weights
        if name not in expected or weights[name].shape != expected[name].shape
    ]
    if problems:
        raise UserError(
            f"{setting} = {path!r} is not the ResNet-50 aesthetic predictor: {len(problems)} "
            "weights are missing, unknown or of another shape, for instance "
            f"{', '.join(sorted(problems)[:3])}."
        )
    counts = {name: torch.zeros((), dtype=torch.long) for name in counters}
    model.load_state_dict(
        {**counts, **{k: v.float() for k, v in weights.items() if k not in counters}}, assign=True
    )
    return model.eval().requires_grad_(False)


def _renumber_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "model.fc."
    numbers = sorted(
        {
            int(name.split(".")[2])
            for name in weights
            if name.startswith(prefix) and name.count(".") == 3
        }
    )
    places = {old: 3 * place for place, old in enumerate(numbers)}
    return {
        f"{prefix}{places[int(name.split('.')[2])]}.{name.split('.')[3]}"
        if name.startswith(prefix) and name.count(".") == 3
        else name: value
        for name, value in weights.items()
    }


def prepare(image: Image.Image) -> Tensor:
    """Cut the center square, resize it to 224 x 224 and normalize: image -> (3, 224, 224)."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    square = image.convert("RGB").crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32) / 255)
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)
