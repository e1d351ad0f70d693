"""All that decides what an encoded array holds, apart from the picture itself; and the content addresses that follow."""

from __future__ import annotations

import hashlib
from typing import Any

from raytrain import plugins
from raytrain.config import Config
from raytrain.data import buckets
from raytrain.data.picture import DECODING
from raytrain.data.schema import CONTROLS, MASKS, MOMENTS, TEXT, content_digest
from raytrain.data.transform import VERSION
from raytrain.errors import UserError
from raytrain.table import Table

Names = tuple[str, ...]


class Recipe(Table):
    """What the encoders are and how their input is made."""

    family: str
    vae_hash: str
    text_hash: str
    precision: str
    background: str
    stored_channels: int
    """Channels stored of a latent: mean and log-variance, or the latent itself."""
    latent_factor: int
    """Pixels per latent cell along one side."""
    mask_version: str = ""
    """Empty: no masks are stored."""
    control_version: str = ""

    def prefixes(self, transparent: bool = False) -> dict[str, bytes]:
        """Return for each store what its content addresses begin with; only transparent pictures depend on the background."""
        pixels = (DECODING, VERSION, self.background if transparent else "")
        return {
            MOMENTS: content_digest(MOMENTS, pixels, self.vae_hash, self.precision),
            MASKS: content_digest(MASKS, pixels, self.mask_version, self.latent_factor),
            CONTROLS: content_digest(CONTROLS, pixels, self.control_version),
            TEXT: content_digest(TEXT, self.text_hash, self.precision),
        }

    @property
    def empty_key(self) -> bytes:
        """The content address of the encoded empty caption."""
        return address(self.prefixes()[TEXT], b"")


def address(prefix: bytes, *parts: bytes) -> bytes:
    """Return the content address of an array; parts have fixed lengths but for the last."""
    return hashlib.sha256(b"".join((prefix, *parts))).digest()


def recipe(config: Config) -> Recipe:
    """Check the model folder, the buckets against its VAE and the plug-ins; hash what decides the arrays. No model is loaded."""
    from raytrain import families, pretrained

    data = config.data
    family = families.load(config.model.family)
    pretrained.check_parts(config.model, tuple(family.PARTS))
    families.caption_tokens(family, config.model)
    latent = family.latent(config.model)
    factor = latent.multiple
    for width, height in buckets.all_sizes(data.buckets):
        if width % factor or height % factor:
            raise UserError(
                f"Every side of a bucket must be a multiple of {factor}, which a {config.model.family} model needs, but "
                f"[data.buckets] gives {width}x{height}; it could not be encoded. Make `step` a multiple of {factor}."
            )
        if latent.largest and max(width, height) > latent.largest:
            raise UserError(
                f"A {config.model.family} model has positions for {latent.largest} pixels a side, "
                f"but [data.buckets] gives {width}x{height}; it could not be trained on. "
                f"Set `max_side` to at most {latent.largest}."
            )
    masks = data.masks.kind != "none" and data.masks.train
    return Recipe(
        family=config.model.family,
        vae_hash=pretrained.vae_hash(config.model),
        text_hash=text_hash(config),
        precision=data.encode.precision,
        background=data.background,
        stored_channels=latent.stored,
        latent_factor=latent.factor,
        mask_version=_version("masks", data.masks) if masks else "",
        control_version=_version("controls", data.controls) if data.controls.kind != "none" else "",
    )


def text_hash(config: Config) -> str:
    """Return the content hash of the text encoders and of the length they encode."""
    from raytrain import families, pretrained

    weights = pretrained.hash_of(config.model, families.text_parts(families.load(config.model.family)))
    return content_digest(weights, config.model.max_tokens).hex()


def _version(kind: str, config: Any) -> str:
    return f"{config.kind}/{plugins.load(f'data.{kind}', config.kind).version(config)}"
