"""What the U-Net families of Stable Diffusion share: loading through diffusers, VAE posteriors,
the noise schedule, CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raytrain import pretrained
from raytrain.config import ModelConfig
from raytrain.diffusion.noise import sample_posterior
from raytrain.diffusion.process import Ddpm
from raytrain.errors import UserError
from raytrain.families import Latent

CHUNK = 75
"""Words of a caption that CLIP sees at once; with the tokens of its beginning and end they are
77."""
CAPTION_TOKENS = {CHUNK: CHUNK, 2 * CHUNK: 2 * CHUNK, 3 * CHUNK: 3 * CHUNK}

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
HINT_WIDTHS = (16, 32, 96, 256)
"""Channels of a ControlNet's hint encoder, at full size and after each halving."""
HINT_PARTS = ()
"""A hint is made of pixels alone."""
CONTROL_INPUT = "image"
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")

SCHEDULERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "auto": ("DDIMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def load_vae(model: ModelConfig, dtype: torch.dtype) -> Any:
    """Load the VAE, the model's own or `model.vae`."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    root, name = pretrained.vae_source(model)
    return AutoencoderKL.from_pretrained(
        root, subfolder=name or None, torch_dtype=dtype, variant=model.variant
    )


def load_tokenizer(model: ModelConfig, part: str) -> Any:
    """Load a CLIP tokenizer."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(pretrained.folder(model), subfolder=part)


def load_text(model: ModelConfig, part: str, kind: str, dtype: torch.dtype) -> Any:
    """Load a text encoder of the transformers class `kind`."""
    import transformers

    return getattr(transformers, kind).from_pretrained(
        pretrained.folder(model),
        subfolder=part,
        dtype=dtype,
        variant=model.variant,
        use_safetensors=True,
    )


def load_unet(model: ModelConfig, dtype: torch.dtype) -> nn.Module:
    """Load the U-Net, its linear layers quantized where `model.quantize` asks for it."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet: nn.Module = UNet2DConditionModel.from_pretrained(
        pretrained.folder(model),
        subfolder="unet",
        torch_dtype=dtype,
        variant=model.variant,
        use_safetensors=True,
    )
    return pretrained.quantized(unet, model)


def process(model: ModelConfig) -> Ddpm:
    """Read the noise schedule from the scheduler's config through diffusers' own DDPM
    implementation."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(pretrained.folder(model), subfolder="scheduler")
    prediction = scheduler.config.prediction_type
    if prediction not in Ddpm.PREDICTIONS:
        raise UserError(
            f"model {model.path!r} predicts {prediction!r}; only {' and '.join(Ddpm.PREDICTIONS)} "
            "are trained. Choose another base model."
        )
    return Ddpm(scheduler.alphas_cumprod.float(), prediction)


def latent(model: ModelConfig) -> Latent:
    """Read the shape of latents from the VAE's config."""
    vae = pretrained.vae_config(model)
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    return Latent(int(vae.get("latent_channels", 4)), factor, factor)


def encode_image(vae: Any, pixels: Tensor) -> Tensor:
    """Map pixels (n, 3, H, W) in [-1, 1] to mean and log-variance (n, 2C, H/f, W/f)."""
    result: Tensor = vae.encode(pixels).latent_dist.parameters
    return result


def latents(stored: Tensor, normal: Tensor | None, model: ModelConfig) -> Tensor:
    """Sample scaled latents (n, C, h, w) from stored mean and log-variance (n, 2C, h, w)."""
    assert normal is not None
    vae = pretrained.vae_config(model)
    scale, shift = vae.get("scaling_factor", 0.18215), vae.get("shift_factor") or 0.0
    result: Tensor = (sample_posterior(stored, normal) - shift) * scale
    return result


def clip_tokens(tokenizer: Any, captions: Sequence[str], max_tokens: int) -> Tensor:
    """Map n captions to token ids (n, m, L) in m = max_tokens / 75 chunks,
    each with its beginning and end; longer ones are cut.

    Chunks are cut as kohya's sd-scripts do (`--max_token_length`): an empty one is beginning, end,
    padding.
    """
    length, chunks = tokenizer.model_max_length, max_tokens // CHUNK
    inner = length - 2
    read = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=chunks * inner + 2,
        return_tensors="pt",
    )
    ids: Tensor = read.input_ids
    if chunks == 1:
        return ids[:, None]
    words, real = (
        part[:, 1:-1].reshape(len(ids), chunks, inner)
        for part in (ids, read.attention_mask.bool())
    )
    first = ids[:, :1, None].expand(-1, chunks, 1)
    full = real[:, :, -1:] & (words[:, :, -1:] != tokenizer.eos_token_id)
    last = torch.where(full, tokenizer.eos_token_id, ids[:, -1:, None])
    result = torch.cat([first, words, last], dim=-1)
    result[:, :, 1][~real[:, :, 0]] = tokenizer.eos_token_id
    return result


def join(states: Tensor, chunks: int) -> Tensor:
    """Join hidden states (n * m, L, D) of m chunks to (n, m (L - 2) + 2, D): the first beginning,
    all words, the last end."""
    states = states.reshape(-1, chunks, *states.shape[1:])
    words = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], words, states[:, -1, -1:]], dim=1)


def tokenize(
    tokenizers: Mapping[str, Any], captions: Sequence[str], model: ModelConfig
) -> dict[str, Tensor]:
    """Map n captions to ids (n, m, 77) for each CLIP tokenizer."""
    return {
        name: clip_tokens(each, captions, model.max_tokens) for name, each in tokenizers.items()
    }


def too_long(
    tokenizers: Mapping[str, Any], captions: Sequence[str], model: ModelConfig
) -> list[bool]:
    """Return for each caption whether it has more tokens than are encoded,
    so that its end is lost."""
    tokenizer = tokenizers["tokenizer"]
    most: int = model.max_tokens // CHUNK * (tokenizer.model_max_length - 2)
    found = tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids
    return [len(ids) > most for ids in found]


class LongPrompts:
    """A diffusers pipeline that encodes prompts as captions are encoded, at any length;
    everything else is the pipeline's."""

    def __init__(
        self,
        pipeline: Any,
        encode: Callable[[Sequence[str]], dict[str, Tensor]],
        names: Mapping[str, str],
    ) -> None:
        """Take a function from prompts to the family's text columns,
        and the pipeline's argument for each column."""
        self.pipeline, self.encode, self.names = pipeline, encode, names

    def __call__(
        self, *, prompt: Sequence[str], negative_prompt: Sequence[str], **settings: Any
    ) -> Any:
        """Call the pipeline with encoded prompts, one negative prompt for each."""
        dtype = self.pipeline.unet.dtype
        for prefix, texts in (("", prompt), ("negative_", negative_prompt)):
            columns = self.encode(texts)
            settings |= {
                f"{prefix}{name}": columns[column].to(dtype) for column, name in self.names.items()
            }
        return self.pipeline(**settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["pipeline"], name)


def components(
    names: Mapping[str, str],
    load: Callable[[ModelConfig, str, torch.dtype], Any],
    model: ModelConfig,
    parts: Mapping[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Return all parts of a pipeline, those given and the others loaded in the denoiser's type,
    on a device."""
    denoiser = next(name for name, role in names.items() if role == "denoiser")
    dtype = next(parts[denoiser].parameters()).dtype
    found: dict[str, Any] = dict(parts)
    for name in names:
        if name not in found:
            loaded = load(model, name, dtype)
            found[name] = loaded.eval().to(device) if isinstance(loaded, nn.Module) else loaded
    return found


def on(device: torch.device, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return columns on a device."""
    return {name: column.to(device) for name, column in columns.items()}


def scheduler(model: ModelConfig, name: str) -> Any:
    """Load a sampler by its config name, with the model's own schedule."""
    import diffusers

    kind, options = pretrained.scheduler_named(SCHEDULERS, name, model)
    return getattr(diffusers, kind).from_pretrained(
        pretrained.folder(model), subfolder="scheduler", **options
    )


def control_branch(denoiser: Any, load: Callable[[str], nn.Module]) -> nn.Module:
    """Return a ControlNet that starts as the U-Net's own encoder behind zero convolutions
    (arXiv:2302.05543)."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    vae: Any = load("vae")
    halvings = len(vae.config.block_out_channels) - 1
    widths = (*HINT_WIDTHS, *HINT_WIDTHS[-1:] * halvings)[
        : halvings + 1
    ]  # one stride of 2 between two widths
    # copied here, since `from_unet` cannot read quantized weights
    branch: nn.Module = ControlNetModel.from_unet(
        denoiser, conditioning_embedding_out_channels=widths, load_weights_from_unet=False
    )
    return copy_weights(denoiser, branch)


def copy_weights(denoiser: Any, branch: nn.Module) -> nn.Module:
    """Give a branch the denoiser's weights, quantized or not, where it has the same names;
    returns it."""
    state = denoiser.state_dict()
    if getattr(denoiser, "is_loaded_in_8bit", False) or getattr(
        denoiser, "is_loaded_in_4bit", False
    ):
        from raytrain.quantize import (
            full_state,
        )  # two seconds of imports that only a quantized base needs

        state = full_state(denoiser)
    names = branch.state_dict().keys()
    branch.load_state_dict(
        {name: weight for name, weight in state.items() if name in names}, strict=False
    )
    return branch


def hint(parts: Mapping[str, nn.Module], control: Tensor, model: ModelConfig) -> Tensor:
    """Map control images (n, 3, H, W) uint8 to [0, 1]: the branch reads pixels."""
    return control.float() / 255


def control_kwargs(
    branch: nn.Module,
    noisy: Tensor,
    time: Tensor,
    text: Tensor,
    hint: Tensor,
    scale: float,
    added: Any,
) -> dict[str, Any]:
    """Run a ControlNet on a hint (n, 3, H, W) in [0, 1]; returns its residuals as the U-Net takes
    them."""
    down, middle = branch(
        noisy, time, encoder_hidden_states=text, controlnet_cond=hint, conditioning_scale=scale,
        added_cond_kwargs=added, return_dict=False,
    )  # fmt: skip
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
