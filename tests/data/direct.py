"""What a dataset should hold, computed from the model's own parts by Pillow,
numpy and the libraries, without our code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from raytrain.config import Config

Pixels = np.typing.NDArray[np.uint8]


class Direct:
    """The VAE and the text encoder of an sd15 model folder."""

    def __init__(self, config: Config) -> None:
        from diffusers import AutoencoderKL

        root = config.model.path
        self.vae = AutoencoderKL.from_pretrained(root, subfolder="vae")
        self.tokenizer = CLIPTokenizer.from_pretrained(root, subfolder="tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(root, subfolder="text_encoder")

    def latents(self, pixels: Pixels) -> np.ndarray:
        """Encode pixels (H, W, 3) to mean and log-variance (2C, H/f, W/f)."""
        scaled = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            result: np.ndarray = self.vae.encode(scaled).latent_dist.parameters[0].numpy()
        return result

    def text(self, caption: str) -> np.ndarray:
        """Encode a caption to (77, D)."""
        ids = self.tokenizer(
            caption, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            result: np.ndarray = self.encoder(ids).last_hidden_state[0].numpy()
        return result


def shown(
    file: Path, resized: tuple[int, int], top: int, left: int, bucket: tuple[int, int]
) -> Pixels:
    """Resize an image file by Lanczos and cut a bucket (width, height) out of it: (H, W, 3)."""
    with Image.open(file) as image:
        whole = image.convert("RGB").resize(resized, Image.Resampling.LANCZOS)
    return np.asarray(whole.crop((left, top, left + bucket[0], top + bucket[1])))


def stored(version: Any, column: str = "latents") -> np.ndarray:
    """Return the array of one version as `contents` gives it: latents (2C, h, w) need a reshape,
    so all come flat."""
    arrays, _, _ = version
    return np.frombuffer(arrays[column], np.uint8 if column in ("mask", "control") else np.float16)


def same(version: Any, expected: np.ndarray, column: str = "latents") -> bool:
    """Tell whether a stored version is the expected array, but for half precision."""
    return bool(
        np.allclose(
            stored(version, column).astype(np.float32), expected.ravel(), rtol=2e-3, atol=2e-3
        )
    )
