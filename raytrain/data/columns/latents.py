"""What the family's VAE makes of an image: mean and log-variance of a posterior,
or the latents themselves, float16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raytrain.config import Config
from raytrain.data.annotate import versions
from raytrain.data.store.schema import Array

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from raytrain.data.buckets import Size
    from raytrain.data.image.opening import Opened
    from raytrain.data.image.transform import Transform
    from raytrain.families import Family

OF, COMPANION, COLORS, MAKER = "image", "", True, "VAE"


def version(config: Config, family: Family) -> Mapping[str, str]:
    """Return the hash of the VAE's files, who calls it, in which precision, and how images are
    resized."""
    from raytrain import pretrained

    return {
        MAKER: pretrained.vae_hash(config.model),
        "family": config.model.family,
        "precision": config.data.encode.precision,
        "filter": config.data.buckets.resample,
    }


def tools(config: Config) -> Mapping[str, str]:
    """Return the hash of the model that enlarges small images."""
    return versions.tools(config.data)


def arrays(config: Config, family: Family) -> dict[str, Array]:
    """Return (2C, h, w) of a posterior, (C, h, w) of a VAE without one."""
    latent = family.latent(config.model)
    return {"latents": Array(dtype="float16", shape=(latent.stored,), cell=latent.factor)}


def load(config: Config, family: Family, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Load the VAE."""
    vae = family.load(config.model, "vae", dtype).eval().requires_grad_(False).to(device)
    return Encoder(vae, family, device, versions.Maker(config.data))


class Encoder:
    """The VAE on a device."""

    needs: frozenset[str] = frozenset()

    def __init__(
        self, vae: Any, family: Family, device: torch.device, maker: versions.Maker
    ) -> None:
        """Take the frozen VAE, and the maker of pixels."""
        self.vae, self.family, self.device, self.maker = vae, family, device, maker

    def layer(self, image: Opened) -> Image.Image:
        """Return the image itself."""
        return image.image

    def cut(self, layer: Image.Image, version: Transform, bucket: Size) -> np.ndarray:
        """Return pixels (H, W, 3) uint8."""
        return self.maker.pixels(layer, version, bucket)

    def encode(self, cuts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Map n cuts to `latents` (n, C, h, w) float16; a cut of float16 is latents already."""
        import torch

        pixels = [cut for cut in cuts if cut.dtype == np.uint8]
        if len(pixels) < len(cuts):
            # the VAE sees as many images as ever, whose bits depend on their number
            full = [cut if cut.dtype == np.uint8 else pixels[0] for cut in cuts] if pixels else []
            made = self.encode(full)["latents"] if full else np.stack(cuts)
            ready = np.array([cut.dtype != np.uint8 for cut in cuts])
            made[ready] = np.stack([cut for cut in cuts if cut.dtype != np.uint8])
            return {"latents": made}
        images = torch.from_numpy(np.stack(cuts)).to(self.device).permute(0, 3, 1, 2).contiguous()
        scaled = images.float().div_(127.5).sub_(1)
        with torch.no_grad():
            found = self.family.encode_image(self.vae, scaled.to(self.vae.dtype)).float()
        return {"latents": found.half().cpu().numpy()}
