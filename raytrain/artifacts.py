"""What a method learned, in types that formats know: the words between `raytrain.methods` and
`raytrain.export.formats`.

A method's `artifacts` makes them of a checkpoint's tensors; a format's `TAKES` lists the types it
can write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Artifact:
    """Something learned for one part."""

    WORDS: ClassVar[str]
    """What messages call it."""
    MODELSPEC: ClassVar[str] = ""
    """What ModelSpec appends to the base's architecture."""
    part: str
    """diffusers' folder of what it changes, such as `unet` or `text_encoder`."""


@dataclass(frozen=True)
class Update(Artifact):
    """A change of one layer's weight, of scale alpha / rank."""

    MODELSPEC: ClassVar[str] = "/lora"
    layer: str
    """The layer's path in its part."""
    alpha: float

    @property
    def scale(self) -> float:
        """The factor that the learned tensors are multiplied by."""
        return self.alpha / self.rank

    @property
    def rank(self) -> int:
        """Rank of each factor."""
        raise NotImplementedError


@dataclass(frozen=True)
class LowRank(Update):
    """W + (alpha / rank) up @ down (Hu et al. 2021, arXiv:2106.09685),
    with DoRA's magnitudes or without."""

    WORDS: ClassVar[str] = "low-rank updates"

    down: Tensor
    """(rank, in) of a linear layer, (rank, in, k, k) of a convolution."""
    up: Tensor
    """(out, rank) or (out, rank, 1, 1)."""
    magnitude: Tensor | None = None
    """(out,): the norm that each row of the updated weight is scaled to
    (DoRA, Liu et al. 2024, arXiv:2402.09353)."""

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return int(self.down.shape[0])


@dataclass(frozen=True)
class Factors(Update):
    """An update of LyCORIS (Yeh et al. 2023, arXiv:2309.14859),
    its tensors by LyCORIS' names and in its orientation."""

    tensors: Mapping[str, Tensor]
    inner: int
    """The requested rank, which whole Kronecker factors do not show."""

    @property
    def rank(self) -> int:
        """The requested rank."""
        return self.inner


@dataclass(frozen=True)
class Hadamard(Factors):
    """LoHa: W + (alpha / rank) (w1_a @ w1_b) * (w2_a @ w2_b), elementwise; `hada_*`,
    with `hada_t*` Tucker's cores."""

    WORDS: ClassVar[str] = "LoHa updates"


@dataclass(frozen=True)
class Kronecker(Factors):
    """LoKr: W + (alpha / rank) kron(w1, w2), either whole or the product of two; `lokr_*`."""

    WORDS: ClassVar[str] = "LoKr updates"


@dataclass(frozen=True)
class Weights(Artifact):
    """Learned weights of a part of the base, all of them or some."""

    WORDS: ClassVar[str] = "whole weights"

    tensors: Mapping[str, Tensor]
    """By their names in the part."""


@dataclass(frozen=True)
class Embeddings(Artifact):
    """New words of one text encoder (Gal et al. 2022, arXiv:2208.01618)."""

    WORDS: ClassVar[str] = "embeddings"
    MODELSPEC: ClassVar[str] = "/textual-inversion"
    vectors: Mapping[str, Tensor]
    """For each word, as it stands in prompts, its input embeddings (n, width)."""


@dataclass(frozen=True)
class Module(Artifact):
    """A whole module next to the base, such as a ControlNet."""

    WORDS: ClassVar[str] = "a module next to the base"
    MODELSPEC: ClassVar[str] = "/controlnet"
    tensors: Mapping[str, Tensor]
    """By their names in the module, whose config is that of the method's part."""
