"""Training without a cache (`data.cache = false`): what a step reads is made when it is read.

Images are decoded, cut and encoded, token ids encoded, by the same encoders, in batches of the
same size and to the same half precision as preparation would; so a run is the run over the cache,
bit for bit where a batch is one image (`data.encode.batch`), else to the last bit of a sum.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch

from raytrain import families
from raytrain.config import Config
from raytrain.config.data import DataConfig
from raytrain.data import columns
from raytrain.data.columns import LATENTS, TEXT, TOKENS, TRANSFORM
from raytrain.data.columns import transform as transforms
from raytrain.data.image.image import BadImage
from raytrain.data.image.opening import opened
from raytrain.data.store.schema import Manifest, bucket_size
from raytrain.errors import UserError

THREADS = 4
"""Images of one batch decoded at a time."""


class Online:
    """The encoders of one process, loaded when first needed; they serve one thread at a time."""

    def __init__(self, config: Config, manifest: Manifest, device: torch.device | str) -> None:
        """Take the run's settings; images are read as those of the dataset say."""
        made_with = DataConfig.model_validate(manifest.settings)
        self.data = made_with.model_copy(update={"fetch": config.data.fetch})
        self.config, self.device = config, torch.device(device)
        self.tokens = tuple(manifest.columns[TOKENS].arrays) if TOKENS in manifest.columns else ()
        self.batch = made_with.encode.batch
        self.pool = ThreadPoolExecutor(THREADS, "decode")
        self.lock = threading.Lock()

    def made(
        self,
        wanted: Collection[str],
        stored: Mapping[str, np.ndarray],
        bucket: str = "",
        ids: Sequence[str] = (),
        places: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Return the arrays of the columns that are wanted, of n rows of a bucket, from those that
        are stored; without a bucket those made of captions alone."""
        found = dict(stored)
        if TEXT in wanted:
            tokens = {name: found[name] for name in self.tokens}
            if TOKENS not in wanted:
                found = {name: array for name, array in found.items() if name not in tokens}
            found |= self.text(tokens)
        if LATENTS in wanted and bucket:
            found |= self.latents(bucket, ids, places, found.pop(TRANSFORM))
        return found

    def latents(
        self, bucket: str, ids: Sequence[str], places: Sequence[str], written: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the latents of n versions of images with these hashes and locations, whose
        transforms (n, BYTES) are written down.

        Raises UserError where an image is not what it was when it was prepared.
        """
        size = bucket_size(bucket)

        def cut(identity: str, place: str, row: np.ndarray) -> np.ndarray:
            line = {"location": place, "id": bytes.fromhex(identity)}
            image = opened(line, self.data, alpha=False, mask=False, control=False)
            if isinstance(image, BadImage):
                raise UserError(
                    f"data.cache = false reads every image in training, but {place!r} cannot be "
                    f"read as it was prepared: {image}. Bring it back, or run `raytrain prepare` "
                    "again."
                )
            pixels: np.ndarray = self._images.cut(image.image, transforms.read(row), size)
            return pixels

        cuts = list(self.pool.map(cut, ids, places, written))
        found = self._in_batches(cuts, self._images.encode)
        if not all(np.isfinite(array).all() for array in found.values()):
            raise UserError(
                "The VAE must give finite half-precision numbers, but gives others for one of "
                f"{', '.join(sorted(set(places)))}; nothing can be learned from it. Use "
                'data.encode.precision = "fp32" or another VAE.'
            )
        return found

    def text(self, ids: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the family's text columns of n captions, whose token ids are (n, ...) int32."""
        rows = [dict(zip(ids, row, strict=True)) for row in zip(*ids.values(), strict=True)]

        def encode(batch: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
            stacked = {
                name: torch.from_numpy(np.stack([row[name] for row in batch])).long()
                for name in ids
            }
            found: dict[str, np.ndarray] = self._captions.encode_ids(stacked)
            return found

        return self._in_batches(rows, encode)

    def _in_batches(
        self, entries: Sequence[Any], encode: Callable[[Sequence[Any]], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Encode in batches of one size, as preparation does."""
        with self.lock:
            parts = []
            for start in range(0, len(entries), self.batch):
                part = entries[start : start + self.batch]
                found = encode(columns.filled(part, self.batch))
                parts.append({name: array[: len(part)] for name, array in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def _images(self) -> Any:
        return self._load(LATENTS)

    @cached_property
    def _captions(self) -> Any:
        return self._load(TEXT)

    def _load(self, name: str) -> Any:
        family = families.load(self.config.model.family)
        config = self.config.model_copy(update={"data": self.data})
        bf16 = self.config.data.encode.precision == "bf16"
        dtype = torch.bfloat16 if bf16 else torch.float32
        return columns.load(name).load(config, family, self.device, dtype)
