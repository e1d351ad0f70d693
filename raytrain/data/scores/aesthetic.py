"""Aesthetic rating: how good people would find an image, predicted by one of two kinds of model.

Without `head`, `path` is the safetensors file of the ResNet-50 predictor that `evaluate.aesthetic`
takes: about 0.1 to 1. With `head`, `path` is a CLIP model and `head` a safetensors file of what
LAION trained on its embeddings of unit length: a chain of linear layers with nothing between them
(Schuhmann 2022, "LAION-Aesthetics": sac+logos+ava1-l14-linearMSE on CLIP ViT-L/14, or the single
layer before it). That gives about 1 to 10.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from PIL import Image

from raytrain import storage
from raytrain.config.data import ScoreConfig
from raytrain.data.annotate import pretrained
from raytrain.data.scores import Scorer
from raytrain.data.store.schema import content_key
from raytrain.errors import UserError
from raytrain.table import Table

if TYPE_CHECKING:
    from torch import Tensor


class Options(Table):
    """Settings of the aesthetic score."""

    head: str = ""
    """Safetensors file of the layers on top of CLIP."""


def version(config: ScoreConfig) -> str:
    """Return the hash over the weights."""
    head = Options(**config.options).head
    path, top = f"path of the score {config.name!r}", f"options.head of the score {config.name!r}"
    top_hash = pretrained.weights_hash(head, top) if head else ""
    return content_key("aesthetic", pretrained.weights_hash(config.path, path), top_hash)


def load(config: ScoreConfig) -> Scorer:
    """Load the predictor; UserError where the weights are of another shape."""
    head = Options(**config.options).head
    return _OnClip(config, head) if head else _ResNet(config)


class _ResNet:
    def __init__(self, config: ScoreConfig) -> None:
        from raytrain import aesthetic

        self.device = pretrained.device()
        self.model = aesthetic.load(config.path, f"path of the score {config.name!r}").to(
            self.device
        )

    def score(self, images: list[Image.Image]) -> list[float]:
        import torch

        from raytrain.aesthetic import prepare

        if not images:
            return []
        pixels = torch.stack([prepare(image) for image in images])
        with torch.inference_mode():
            return [float(rating) for rating in self.model(pixels.to(self.device)).cpu()]


class _OnClip:
    def __init__(self, config: ScoreConfig, head: str) -> None:
        from raytrain.clip import ClipModel

        self.clip = ClipModel(
            str(pretrained.folder(config.path)),
            pretrained.device(),
            setting=f"path of the score {config.name!r}",
        )
        self.layers = _read_head(head, f"options.head of the score {config.name!r}")
        wide = self.clip.embed_images([Image.new("RGB", (8, 8))]).shape[1]
        if self.layers[0][0].shape[1] != wide:
            raise UserError(
                f"options.head of the score {config.name!r} takes embeddings of "
                f"{self.layers[0][0].shape[1]} numbers, and CLIP {config.path!r} gives {wide}. "
                "Take the CLIP model the head was trained on."
            )

    def score(self, images: list[Image.Image]) -> list[float]:
        return pretrained.scores(images, self._scores)

    def _scores(self, images: list[Image.Image]) -> list[float]:
        values = self.clip.embed_images(images)
        for weight, bias in self.layers:
            values = values @ weight.T + bias
        return [float(value) for value in values[:, 0]]


def _read_head(file: str, setting: str) -> list[tuple[Tensor, Tensor]]:
    """Return weight (out, in) and bias (out) of each linear layer, in their order,
    whatever their numbers and names are."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(storage.fetch(file))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{setting} must be a .safetensors file, got {file!r}: {error}. Convert a .pth file "
            "once with safetensors.torch.save_file(torch.load(file, weights_only=True), "
            "'head.safetensors')."
        ) from error
    names = sorted((name for name in tensors if name.endswith("weight")), key=_numbers)
    biases = [f"{name.removesuffix('weight')}bias" for name in names]
    odd = (
        not names or any(bias not in tensors for bias in biases) or len(tensors) != 2 * len(names)
    )
    layers = (
        []
        if odd
        else [(tensors[w].float(), tensors[b].float()) for w, b in zip(names, biases, strict=True)]
    )
    sizes = [weight.shape[0] for weight, _ in layers]
    fits = bool(layers) and all(weight.dim() == 2 for weight, _ in layers) and sizes[-1] == 1
    if not fits or any(
        weight.shape[1] != size for (weight, _), size in zip(layers[1:], sizes, strict=False)
    ):
        raise UserError(
            f"{setting} = {file!r} is no chain of linear layers that ends in one number; it holds "
            f"{', '.join(sorted(tensors)[:3])}. Take the weights of an aesthetic predictor on "
            "CLIP embeddings."
        )
    return layers


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
