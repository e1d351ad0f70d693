"""What the U-Net families of Stable Diffusion share: loading through diffusers, VAE moments, the noise schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raytrain.config import ModelConfig
from raytrain.diffusion.schedule import NoiseSchedule
from raytrain.errors import UserError
from raytrain.families import _weights

CHUNK = 75
"""Words of a caption that CLIP sees at once; with the tokens of its beginning and end they are 77."""

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")

SCHEDULERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def load_vae(model: ModelConfig, dtype: torch.dtype) -> Any:
    """Load the VAE, the model's own or `model.vae`, in evaluation mode."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    root, name = _weights.vae_source(model)
    vae = AutoencoderKL.from_pretrained(root, subfolder=name or None, torch_dtype=dtype, variant=_variant(model))
    return vae.eval().requires_grad_(False)


def load_text(model: ModelConfig, kind: str, name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a CLIP tokenizer and text encoder; `kind` is the transformers class, `name` the encoder's sub-folder."""
    import transformers

    root = _weights.folder(model)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(root, subfolder=name.replace("text_encoder", "tokenizer"))
    encoder = getattr(transformers, kind).from_pretrained(
        root, subfolder=name, dtype=dtype, variant=_variant(model), use_safetensors=True
    )
    return tokenizer, encoder.eval().requires_grad_(False)


def tokens(tokenizer: Any, captions: Sequence[str], max_tokens: int) -> Tensor:
    """Map B captions to token ids (B, n, L) in n = max_tokens / 75 chunks, each with its beginning and end; longer ones are cut.

    Chunks are cut as kohya's sd-scripts do (`--max_token_length`): an empty one is beginning, end, padding.
    """
    length, chunks = tokenizer.model_max_length, max_tokens // CHUNK
    inner = length - 2
    read = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=chunks * inner + 2, return_tensors="pt"
    )
    ids: Tensor = read.input_ids
    if chunks == 1:
        return ids[:, None]
    words, real = (part[:, 1:-1].reshape(len(ids), chunks, inner) for part in (ids, read.attention_mask.bool()))
    first = ids[:, :1, None].expand(-1, chunks, 1)
    full = real[:, :, -1:] & (words[:, :, -1:] != tokenizer.eos_token_id)
    last = torch.where(full, tokenizer.eos_token_id, ids[:, -1:, None])
    result = torch.cat([first, words, last], dim=-1)
    result[:, :, 1][~real[:, :, 0]] = tokenizer.eos_token_id
    return result


def join(states: Tensor, chunks: int) -> Tensor:
    """Join hidden states (B * n, L, D) of n chunks to (B, n (L - 2) + 2, D): the first beginning, all words, the last end."""
    states = states.reshape(-1, chunks, *states.shape[1:])
    words = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], words, states[:, -1, -1:]], dim=1)


def is_cut(tokenizer: Any, caption: str, max_tokens: int) -> bool:
    """Return whether a caption has more tokens than are encoded, so that its end is lost."""
    found = tokenizer(caption, add_special_tokens=False, verbose=False).input_ids
    most: int = max_tokens // CHUNK * (tokenizer.model_max_length - 2)
    return len(found) > most


class LongPrompts:
    """A diffusers pipeline that encodes prompts as captions are encoded, at any length; everything else is the pipeline's."""

    def __init__(
        self, pipeline: Any, encode: Callable[[Sequence[str]], dict[str, Tensor]], names: Mapping[str, str]
    ) -> None:
        """Take a function from prompts to the family's text columns, and the pipeline's argument for each column."""
        self.pipeline, self.encode, self.names = pipeline, encode, names

    def __call__(self, *, prompt: Sequence[str], negative_prompt: Sequence[str], **settings: Any) -> Any:
        """Call the pipeline with encoded prompts, one negative prompt for each."""
        dtype = self.pipeline.unet.dtype
        for prefix, texts in (("", prompt), ("negative_", negative_prompt)):
            columns = self.encode(texts)
            settings |= {f"{prefix}{name}": columns[column].to(dtype) for column, name in self.names.items()}
        return self.pipeline(**settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["pipeline"], name)


def load_denoiser(model: ModelConfig, dtype: torch.dtype) -> nn.Module:
    """Load the U-Net on the CPU, in evaluation mode, its linear layers quantized where `model.quantize` asks for it."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    root = _weights.folder(model)
    unet: nn.Module = UNet2DConditionModel.from_pretrained(
        root, subfolder="unet", torch_dtype=dtype, variant=_variant(model), use_safetensors=True
    )
    if model.quantize != "none":
        from raytrain.families._quantize import quantize

        quantize(unet, model.quantize)
    return unet.eval()


def load_schedule(model: ModelConfig) -> NoiseSchedule:
    """Read the noise schedule from the scheduler's config through diffusers' own DDPM implementation."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(_weights.folder(model), subfolder="scheduler")
    prediction = scheduler.config.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(
            f"model {model.path!r} predicts {prediction!r}; only epsilon and v_prediction are trained. "
            "Choose another base model."
        )
    root, name = _weights.vae_source(model)
    vae = _weights.read_config(root / name, "config.json")
    return NoiseSchedule(
        scheduler.alphas_cumprod.float(), prediction, vae.get("scaling_factor", 0.18215), vae.get("shift_factor") or 0.0
    )


def load_scheduler(model: ModelConfig, name: str) -> Any:
    """Load a sampler by its config name, with the model's own schedule."""
    import diffusers

    kind, options = SCHEDULERS[name]
    return getattr(diffusers, kind).from_pretrained(_weights.folder(model), subfolder="scheduler", **options)


def moments(vae: Any, pixels: Tensor) -> Tensor:
    """Encode pixels (B, 3, H, W) in [-1, 1] to float32 moments (B, 2C, H/f, W/f)."""
    with torch.no_grad():
        distribution = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    result: Tensor = distribution.parameters
    return result.float()


def _variant(model: ModelConfig) -> str | None:
    return model.variant
