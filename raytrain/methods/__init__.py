"""Methods: one way of learning a file; a method is a module with the members of `Method` below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from raytrain import plugins
from raytrain.config import MethodConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raytrain.families import Family


class Method(Protocol):
    """What a file in `raytrain/methods` offers, beside `Config`, its own table, a subclass of `MethodConfig`."""

    def prepare(self, denoiser: nn.Module, family: Family, config: Any, seed: int) -> None:
        """Freeze the denoiser and mark or inject what learns (fp32), in place."""

    def state(self, denoiser: nn.Module) -> dict[str, Tensor]:
        """Return what learns, by public name: all that a checkpoint holds."""

    def load_state(self, denoiser: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Put such a state back, strictly."""

    def public_name(self, name: str) -> str:
        """Turn a trainable parameter's name in the prepared denoiser into its name in checkpoints."""

    def facts(self, config: Any) -> dict[str, Any]:
        """Return what an export writes into its header."""


def load(config: MethodConfig) -> Method:
    """Return the method module a config asks for."""
    return plugins.load("methods", config.name)
