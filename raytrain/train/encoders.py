"""What the encoders hold that stay with a training worker (`data.cache = false`), counted without
weights.

Their tensors are followed on the `meta` device: the most bytes that are alive at a time while the
largest batch is encoded.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raytrain import families, methods
from raytrain.config import Config
from raytrain.data.columns import LATENTS, TEXT, text
from raytrain.train import cost
from raytrain.train.sizes import Encoders


def count(config: Config, width: int, height: int) -> Encoders:
    """Count the encoders that a step calls, for a batch of a bucket, sides in pixels; none where
    what they make is stored."""
    if config.data.cache:
        return Encoders()
    family, encode = families.load(config.model.family), config.data.encode
    reads = methods.load(config.method).columns(family, config.method)
    dtype = torch.bfloat16 if encode.precision == "bf16" else torch.float32
    weights, work = 0, [0]
    if LATENTS in reads:
        with cost.META:
            vae = cost.structure(family, config, "vae")
            vae = vae.bfloat16() if dtype == torch.bfloat16 else vae  # `to` would print a warning
        weights += held({"vae": vae})
        with Alive(vae) as alive, cost.countable_attention(), torch.no_grad():
            pixels = torch.empty(encode.batch, 3, height, width, dtype=dtype, device=cost.META)
            family.encode_image(vae, pixels)
        work.append(alive.most)
    if TEXT in reads:
        parts = text.on_meta(config, family, dtype)
        weights += held(parts)
        ids = text.ids_on_meta(config, family, encode.batch)
        with Alive(*parts.values()) as alive, cost.countable_attention(), cost.META:
            family.encode_text(parts, ids, config.model)
        work.append(alive.most)
    return Encoders(weights, max(work))


def held(parts: Mapping[str, nn.Module]) -> int:
    """Return the bytes of the parts' weights and buffers."""
    return sum(
        tensor.nbytes
        for part in parts.values()
        for tensor in (*part.parameters(), *part.buffers())
    )


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the tensors that operations make in a block, those of modules left out."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known = weakref.WeakSet(
            tensor.untyped_storage()
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
        )

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do an operation, and take note of the memory that is new in its result."""
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.most = max(self.most, self._now)
        return made

    def _free(self, size: int) -> None:
        self._now -= size
