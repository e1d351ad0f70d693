"""Families: one base model a file; a family is a module with the members of `Family` below.

What a base model's own conventions are (packing, position ids, sign, direction of time, guidance)
never leaves its file. Families never import methods or each other, so m families and n methods
cost m + n files. What several share lives in modules whose name starts with an underscore, which
the registry does not list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from raytrain import plugins
from raytrain.config import ModelConfig
from raytrain.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raytrain.diffusion.process import Process

Role = Literal["denoiser", "text", "tokenizer", "vae", "image"]


@dataclass(frozen=True)
class Latent:
    """What a family's VAE makes of an image."""

    channels: int
    factor: int
    """Pixels per latent cell along one side."""
    multiple: int
    """Every side of an image must be a multiple of so many pixels."""
    posterior: bool = True
    """A mean and a log-variance are stored, from which training samples;
    else the latents themselves."""
    largest: int | None = None
    """No side of an image may be longer, in pixels; None: any length."""

    @property
    def stored(self) -> int:
        """Channels that are stored of an image."""
        return 2 * self.channels if self.posterior else self.channels


class Family(Protocol):
    """What a file in `raytrain/families` offers."""

    PARTS: Mapping[str, Role]
    """Sub-folders that a model folder must hold, in addition to `scheduler`."""
    CONDITION: tuple[str, ...]
    """Text columns that `encode_text` makes and `predict` reads."""
    CAPTION_TOKENS: Mapping[int, int]
    """For each `model.max_tokens` that the family can read, how many tokens of a caption it
    encodes."""
    LORA_TARGETS: Mapping[str, tuple[str, ...]]
    """For each part that can take a LoRA, the endings of its layers' names."""
    CONV_TARGETS: Mapping[str, tuple[str, ...]]
    """The same for convolutions."""
    KOHYA: Mapping[str, tuple[str, Callable[[str, nn.Module], str]]]
    """For each part kohya's prefix, and a function from a module's path to kohya's name of it,
    without the prefix."""
    EMBEDDINGS: Mapping[str, str]
    """For each text encoder the key of its vectors in an embedding's file."""
    KOHYA_BASE: str
    """`ss_base_model_version` of kohya's files."""
    MODELSPEC: str
    """`modelspec.architecture` of Stability's ModelSpec."""
    NEEDS: tuple[str, ...]
    """Modules that its functions import, which take seconds: a process that waits for work imports
    them meanwhile."""

    def load(self, model: ModelConfig, part: str, dtype: torch.dtype) -> Any:
        """Load a part on the CPU, a tokenizer without weights; linear layers of the denoiser
        quantized where asked."""

    def process(self, model: ModelConfig) -> Process:
        """Read the forward process and the prediction type from the model folder."""

    def latent(self, model: ModelConfig) -> Latent:
        """Read the shape of latents from the model folder."""

    def encode_image(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Map pixels (n, 3, H, W) in [-1, 1] to what is stored of them
        (n, `Latent.stored`, H/f, W/f), float32."""

    def latents(self, stored: Tensor, normal: Tensor | None, model: ModelConfig) -> Tensor:
        """Map what is stored, and normal draws (n, C, h, w) where that is a posterior,
        to scaled latents (n, C, h, w)."""

    def tokenize(
        self, tokenizers: Mapping[str, Any], captions: Sequence[str], model: ModelConfig
    ) -> dict[str, Tensor]:
        """Map n captions to token ids, (n, ...) int64 columns named after the tokenizers'
        folders."""

    def too_long(
        self, tokenizers: Mapping[str, Any], captions: Sequence[str], model: ModelConfig
    ) -> list[bool]:
        """Return for each caption whether its end is not encoded,
        since it has more tokens than the family reads."""

    def encode_text(
        self, encoders: Mapping[str, nn.Module], tokens: Mapping[str, Tensor], model: ModelConfig
    ) -> dict[str, Tensor]:
        """Map token ids to the columns of `CONDITION`, (n, ...) float32, differentiable."""

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        time: Tensor,
        condition: Mapping[str, Tensor],
        model: ModelConfig,
        **extra: Any,
    ) -> Tensor:
        """Predict of latents (n, C, h, w) at times (n,), in the process's convention,
        (n, C, h, w).

        `condition` has the columns of `CONDITION` and `sizes` (n, 6): original height, width, crop
        top, left, bucket height, width.
        """

    def pipeline(
        self, model: ModelConfig, parts: Mapping[str, Any], scheduler: str, device: torch.device
    ) -> Any:
        """Assemble the diffusers pipeline around `parts`, loading the others, for sampling."""

    def tiny(self, folder: str, seed: int = 0) -> None:
        """Write a model folder with tiny random weights, built offline."""

    # Facts that only some families have.
    # SIZE_IDS: True where `predict` reads `model.size_ids`
    # UNREAD: Mapping[str, tuple[str, str]], for a part the path of its blocks, and a pattern of
    # the layers in the last of them whose output nothing reads, so that no adapter would learn
    # there

    # Verbs that only some families have; `verb` tells of one that is missing.
    #
    # ControlNet: control images come stored as (n, 3, H, W) uint8; what a branch reads of them is
    # the family's.
    # HINT_PARTS: tuple[str, ...]  frozen parts that `hint` works with: none for pixels, ("vae",)
    #                              for latents
    # CONTROL_INPUT: str           the pipeline's argument for control images
    # control_branch(denoiser, load) -> nn.Module; without effect at the start; `load` as in
    #   `Method.build`
    # hint(parts, control, model) -> Tensor; what `control` reads of control images
    # control(branch, noisy, time, condition, hint, scale) -> what `predict` takes as `extra`


def load(name: str) -> Family:
    """Return the family module `name`."""
    return plugins.load("families", name)


def denoiser(family: Family) -> str:
    """Return the folder of the part that predicts: `unet` or `transformer`."""
    return next(name for name, role in family.PARTS.items() if role == "denoiser")


def text_parts(family: Family, *roles: Role) -> tuple[str, ...]:
    """Return the folders of the text encoders and tokenizers, or of those with a role."""
    return tuple(
        name for name, role in family.PARTS.items() if role in (roles or ("text", "tokenizer"))
    )


def caption_tokens(family: Family, model: ModelConfig) -> int:
    """Return how many tokens of a caption are encoded.

    Raises UserError where the family cannot read `model.max_tokens`.
    """
    known = family.CAPTION_TOKENS
    if model.max_tokens not in known:
        raise UserError(
            f"model.max_tokens = {model.max_tokens} is no caption length of a {model.family} "
            f"model; it would have no effect. Use {', '.join(map(str, known))}, with which "
            f"{max(known.values())} tokens are encoded."
        )
    return known[model.max_tokens]


def check_size_ids(family: Family, model: ModelConfig) -> None:
    """Raise UserError for `model.size_ids` where the family is told no sizes."""
    if model.size_ids is not None and not getattr(family, "SIZE_IDS", False):
        raise UserError(
            f"model.size_ids = {list(model.size_ids)} has no effect: a {model.family} model is "
            "told nothing of an image's size. Leave it out."
        )


def published(layer: str) -> str:
    """Return a layer's path as LoRA files name it: transformers 5 dropped CLIP's `text_model`,
    readers of files did not.

    >>> published("encoder.layers.0.self_attn.q_proj")
    'text_model.encoder.layers.0.self_attn.q_proj'
    """
    return f"text_model.{layer}" if layer.startswith("encoder.layers.") else layer


def verb(family: Family, name: str, why: str) -> Any:
    """Return a verb that only some families have; UserError where this one has not."""
    found = getattr(family, name, None)
    if found is None:
        own = getattr(family, "__name__", str(family))
        having = [
            each
            for each in plugins.names("families")
            if hasattr(plugins.load("families", each), name)
        ]
        raise UserError(
            f"{why}, which family {own.rpartition('.')[2]!r} does not offer ({own} has no "
            f"function {name!r}). Families that do: {', '.join(having) or 'none'}."
        )
    return found
