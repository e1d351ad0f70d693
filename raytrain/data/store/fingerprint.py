"""All that decides what stored arrays hold, apart from image and caption;
and the content addresses that follow."""

from __future__ import annotations

import hashlib

from raytrain.config import Config
from raytrain.data import buckets, columns
from raytrain.data.image.image import DECODING
from raytrain.data.image.render import VERSION
from raytrain.data.store.schema import Column, content_digest
from raytrain.errors import UserError
from raytrain.table import Table


class Fingerprint(Table):
    """The columns of a dataset, and how what they are made from is read."""

    family: str
    background: str
    columns: dict[str, Column]
    """By name, in order; caption columns as yet without arrays, which their empty caption says."""

    @classmethod
    def of(cls, config: Config) -> Fingerprint:
        """Check the model folder, the buckets against its VAE and the plug-ins; hash what decides.

        No model is loaded.
        """
        from raytrain import families, pretrained

        family = families.load(config.model.family)
        pretrained.check_parts(config.model, tuple(family.PARTS))
        families.caption_tokens(family, config.model)
        families.check_size_ids(family, config.model)
        latent = family.latent(config.model)
        multiple = latent.multiple
        for width, height in buckets.all_sizes(config.data.buckets):
            if width % multiple or height % multiple:
                raise UserError(
                    f"Every side of a bucket must be a multiple of {multiple}, which a "
                    f"{config.model.family} model needs, but [data.buckets] gives "
                    f"{width}x{height}; it could not be encoded. Make `step` a multiple of "
                    f"{multiple}."
                )
            if latent.largest and max(width, height) > latent.largest:
                raise UserError(
                    f"A {config.model.family} model has positions for {latent.largest} pixels a "
                    f"side, but [data.buckets] gives {width}x{height}; it could not be trained "
                    f"on. Set `max_side` to at most {latent.largest}."
                )
        found = {}
        for name in columns.stored(config):
            kind = columns.load(name)
            version = dict(kind.version(config, family))
            arrays = kind.arrays(config, family) if kind.OF == "image" else {}
            if kind.OF == "image" and config.data.max_side is not None:
                version["max_side"] = str(config.data.max_side)
            tools = dict(kind.tools(config)) if kind.OF == "image" and kind.COLORS else {}
            found[name] = Column(of=kind.OF, version=version, tools=tools, arrays=arrays)
        return cls(family=config.model.family, background=config.data.background, columns=found)

    def names(self, of: str) -> tuple[str, ...]:
        """Return the columns made from images or from captions."""
        return tuple(name for name, column in self.columns.items() if column.of == of)

    def prefixes(self, transparent: bool = False, tools: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Return what the addresses of each column begin with; only transparent images depend on
        the background, and only versions made by tools on these."""
        background = self.background if transparent else ""
        return {
            name: prefix(name, column, background, tools) for name, column in self.columns.items()
        }

    def empty_key(self, name: str) -> bytes:
        """Return the address of a caption column's empty caption."""
        return address(self.prefixes()[name], b"")


def prefix(name: str, column: Column, background: str = "", tools: tuple[str, ...] = ()) -> bytes:
    """Return what the addresses of a column's arrays begin with, of those that tools make."""
    pixels = (DECODING, VERSION, background) if column.of == "image" else ()
    made_by = [column.tools[tool] for tool in sorted(tools) if tool in column.tools]
    return content_digest(name, (*pixels, *made_by), column.version)


def address(prefix: bytes, *parts: bytes) -> bytes:
    """Return the content address of an array; parts have fixed lengths but for the last."""
    return hashlib.sha256(b"".join((prefix, *parts))).digest()
