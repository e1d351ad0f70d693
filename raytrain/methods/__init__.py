"""Methods: one way of learning a file.

A method is a module with `Config`, its own table, a subclass of `MethodConfig`, and those members
of `Method` below in which it differs from training the denoiser on what a dataset stores; the
others come from `raytrain.methods._denoise`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from raytrain import plugins
from raytrain.config import MethodConfig
from raytrain.optimizers import Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raytrain.artifacts import Artifact
    from raytrain.batch import Batch, Columns
    from raytrain.config import Config
    from raytrain.families import Family
    from raytrain.objective import Objective
    from raytrain.rng import Draw
    from raytrain.sampling.prompts import Prompt


class Method(Protocol):
    """What training, sampling and export need of a method."""

    FREEZES_BASE: bool
    """Weights of the base do not learn, so they may be quantized."""
    INPUTS: tuple[str, ...]
    """What a prompt needs in addition to its text: `control`."""

    def columns(self, family: Family, config: Any) -> tuple[str, ...]:
        """Return the columns that training reads: `latents`, `text`, `tokens`, `control`."""

    def build(
        self, load: Callable[[str], nn.Module], family: Family, config: Any, seed: int
    ) -> dict[str, nn.Module]:
        """Return the parts that a step runs; `requires_grad` says what learns (in fp32).

        `load(part)` gives a part of the base on the CPU, frozen and in evaluation mode.
        """

    def draws(self, objective: Objective, batch: Batch, config: Any) -> dict[str, Draw]:
        """Return what is drawn for each row."""

    def losses(
        self,
        objective: Objective,
        parts: Mapping[str, nn.Module],
        batch: Batch,
        draws: Columns,
        config: Any,
    ) -> Tensor:
        """Return each row's loss, (n,) float32."""

    def groups(self, config: Any) -> dict[str, Group]:
        """Return how weights are trained, by prefix of their public names; the longest matching
        prefix counts."""

    def tokenizers(self, known: Mapping[str, Any], family: Family, config: Any) -> dict[str, Any]:
        """Return the family's tokenizers, which also know the words that the method learns."""

    def known_words(self, text: str, config: Any) -> str:
        """Return a prompt in words that the base and a judge know, without those that the method
        teaches."""

    def pipeline(
        self, config: Config, parts: Mapping[str, nn.Module], device: torch.device
    ) -> Any:
        """Return the diffusers pipeline that samples with these parts."""

    def artifacts(
        self, state: Mapping[str, Tensor], config: Any, family: Family
    ) -> list[Artifact]:
        """Return what a checkpoint's tensors, by public name, are to other programs."""

    def pipeline_inputs(
        self, family: Family, config: Any, prompts: Sequence[Prompt]
    ) -> dict[str, Any]:
        """Return what that pipeline is called with for these prompts,
        in addition to what every pipeline takes."""


def load(config: MethodConfig) -> Method:
    """Return the method a config asks for, completed by what it does not define."""
    from raytrain.methods import _denoise  # imports torch, which reading a config does not need

    own = vars(plugins.load("methods", config.name))
    return SimpleNamespace(**{**vars(_denoise), **own})
