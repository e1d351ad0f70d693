"""CLIP as a judge: unit-length embeddings of images and texts
(Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raytrain import mirror
from raytrain.errors import UserError

EPSILON = 1e-8
"""Smallest norm divided by, as in `torch.nn.functional.cosine_similarity`."""


def check(path: str, setting: str = "evaluate.clip") -> None:
    """Raise UserError where a local folder lacks a part of a CLIP model, or is not there; a hub id
    is not looked up."""
    root = Path(mirror.local(path))
    if not root.is_dir():
        if path.startswith((".", "/", "~")) or path.count("/") != 1:
            raise UserError(
                f"{setting} must be a folder or hub id of a CLIP model, and {path!r} is no folder "
                "here; no image could be scored. Correct the path."
            )
        return
    # A tokenizer's class makes an empty one where there are no files of it, and says nothing.
    parts = {"config.json": "config.json", "weights": "*.safetensors", "tokenizer": "[tv]*o*.json"}
    missing = [name for name, pattern in parts.items() if not any(root.glob(pattern))]
    if missing:
        raise UserError(
            f"{setting} must be a folder or hub id of a CLIP model in safetensors with its "
            f"tokenizer, but {path!r} lacks {', '.join(missing)}; no image could be scored. Give "
            "a whole folder."
        )


class ClipModel:
    """A CLIPModel folder or hub id with its tokenizer and image processor, loaded once.

    The PIL image processor is used whether or not torchvision is installed, so scores are the same
    everywhere.
    """

    def __init__(
        self,
        path: str,
        device: torch.device | str = "cpu",
        batch: int = 32,
        setting: str = "evaluate.clip",
    ) -> None:
        """Load the model; UserError names the setting and says which part of the folder could not
        be read."""
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        self.device = torch.device(device)
        self.batch = batch
        path = mirror.local(path)
        try:
            self._model: Any = (
                CLIPModel.from_pretrained(path, use_safetensors=True)
                .float()
                .eval()
                .to(self.device)
            )
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(path)
            self._processor: Any = CLIPImageProcessorPil.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{setting} must be a folder or hub id of a CLIP model in safetensors with "
                f"tokenizer and image processor, got {path!r}: {error}"
            ) from error
        self._length = min(
            int(self._tokenizer.model_max_length),
            int(self._model.config.text_config.max_position_embeddings),
        )

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Map N images of any size to unit embeddings (N, D), float32 on the CPU."""
        parts = []
        for start in range(0, len(images), self.batch):
            chunk = [image.convert("RGB") for image in images[start : start + self.batch]]
            pixels = self._processor(images=chunk, return_tensors="pt")["pixel_values"].to(
                self.device
            )
            parts.append(
                unit(self._model.get_image_features(pixel_values=pixels).pooler_output).cpu()
            )
        return (
            torch.cat(parts) if parts else torch.zeros(0, int(self._model.config.projection_dim))
        )

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Map N texts, cut to the model's token limit, to unit embeddings (N, D),
        float32 on the CPU."""
        parts = []
        for start in range(0, len(texts), self.batch):
            tokens = self._tokenizer(
                list(texts[start : start + self.batch]),
                padding=True,
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            ).to(self.device)
            parts.append(unit(self._model.get_text_features(**tokens).pooler_output).cpu())
        return (
            torch.cat(parts) if parts else torch.zeros(0, int(self._model.config.projection_dim))
        )


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (N, D) to length 1, dividing by at least EPSILON;
    dot products are then cosines."""
    vectors = vectors.float()
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
    return vectors / lengths
