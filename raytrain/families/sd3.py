"""Stable Diffusion 3 and 3.5: one transformer over text and image (arXiv:2403.03206).

It learns by flow matching in latents of 16 channels. Times s are the scheduler's sigmas; the
transformer itself takes 1000 s. Text is what two CLIP encoders and T5 say of a caption, at its
full length: the transformer attends to padding too.

kohya trains Stability's original layout, where q, k and v are one module, and three updates of
rank r are no single one of rank r. So a file in kohya's format has diffusers' paths behind the
prefix `lora_transformer`, as OneTrainer's files have and ComfyUI reads for this model. The names
of the text encoders' layers are kohya's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raytrain import pretrained
from raytrain.config import ModelConfig
from raytrain.diffusion.process import Flow
from raytrain.errors import UserError
from raytrain.families import Latent
from raytrain.families import _stable_diffusion as sd
from raytrain.families._kohya import plain
from raytrain.families._stable_diffusion import encode_image, latents

PARTS = {
    "vae": "vae", "text_encoder": "text", "tokenizer": "tokenizer", "text_encoder_2": "text",
    "tokenizer_2": "tokenizer", "text_encoder_3": "text", "tokenizer_3": "tokenizer",
    "transformer": "denoiser",
}  # fmt: skip
CONDITION = ("text", "pooled")
T5_LENGTH = 256
"""Tokens that T5 reads, its end included: the pipeline's own `max_sequence_length`."""
CAPTION_TOKENS = {sd.CHUNK: T5_LENGTH - 1}
LORA_TARGETS = {
    # of diffusers' train_dreambooth_lora_sd3.py, which does not train T5
    "transformer": (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    ),
    "text_encoder": sd.CLIP_ATTENTION,
    "text_encoder_2": sd.CLIP_ATTENTION,
}  # fmt: skip
CONV_TARGETS = {"transformer": ("pos_embed.proj",)}
KOHYA = {
    "transformer": ("lora_transformer", plain), "text_encoder": ("lora_te1", plain),
    "text_encoder_2": ("lora_te2", plain), "text_encoder_3": ("lora_te3", plain),
}  # fmt: skip
UNREAD = {
    "transformer": ("transformer_blocks", r"attn\.add_q_proj")
}  # the last block drops its text
EMBEDDINGS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
HINT_PARTS = ("vae",)
CONTROL_INPUT = "control_image"
KOHYA_BASE = "sd3"
MODELSPEC = "stable-diffusion-3"
NEEDS = ("diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",)
SCHEDULERS = dict.fromkeys(("auto", "euler"), "FlowMatchEulerDiscreteScheduler")
_CLIP = ("text_encoder", "text_encoder_2")


def load(model: ModelConfig, part: str, dtype: torch.dtype) -> Any:
    """Load a part on the CPU."""
    root = pretrained.folder(model)
    if part == "vae":
        return sd.load_vae(model, dtype)
    if part == "tokenizer_3":
        from transformers import T5TokenizerFast

        return T5TokenizerFast.from_pretrained(root, subfolder=part)
    if PARTS[part] == "tokenizer":
        return sd.load_tokenizer(model, part)
    if PARTS[part] == "text":
        kind = "CLIPTextModelWithProjection" if part in _CLIP else "T5EncoderModel"
        return sd.load_text(model, part, kind, dtype)
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    transformer: nn.Module = SD3Transformer2DModel.from_pretrained(
        root, subfolder=part, torch_dtype=dtype, variant=model.variant, use_safetensors=True
    )
    return pretrained.quantized(transformer, model)


def process(model: ModelConfig) -> Flow:
    """Read the static shift from the scheduler's config."""
    settings = pretrained.scheduler_config(model)
    if settings.get("use_dynamic_shifting"):
        raise UserError(
            f"The scheduler of model {model.path!r} has use_dynamic_shifting = true: while "
            "sampling it shifts noise levels by the image's size, which training of this family "
            "does not; other levels would be learned than are sampled. Set it to false in "
            "scheduler_config.json, and `shift` to what the model was trained with."
        )
    return Flow(float(settings.get("shift", 1.0)))


def latent(model: ModelConfig) -> Latent:
    """Read the shape of latents from the configs of the VAE and the transformer."""
    settings = pretrained.read_config(pretrained.folder(model), "transformer", "config.json")
    own, patch = sd.latent(model), int(settings.get("patch_size", 2))
    # positions are cropped from a grid of so many patches a side
    largest = own.factor * patch * int(settings.get("pos_embed_max_size", 96))
    return Latent(own.channels, own.factor, own.factor * patch, largest=largest)


def tokenize(
    tokenizers: Mapping[str, Any],
    captions: Sequence[str],
    model: ModelConfig,
) -> dict[str, Tensor]:
    """Map n captions to ids (n, 1, 77) for each CLIP tokenizer and (n, 256) for T5.

    What is longer is cut.
    """
    short = {name: tokenizers[name] for name in ("tokenizer", "tokenizer_2")}
    read = tokenizers["tokenizer_3"](
        list(captions),
        padding="max_length",
        max_length=T5_LENGTH,
        truncation=True,
        return_tensors="pt",
    )
    ids = {name: sd.clip_tokens(each, captions, sd.CHUNK) for name, each in short.items()}
    return {**ids, "tokenizer_3": read.input_ids}


def too_long(
    tokenizers: Mapping[str, Any],
    captions: Sequence[str],
    model: ModelConfig,
) -> list[bool]:
    """Return for each caption whether even T5, which reads most, does not see its end."""
    t5 = tokenizers["tokenizer_3"]
    found = t5(list(captions), add_special_tokens=False, verbose=False).input_ids
    return [len(ids) > T5_LENGTH - 1 for ids in found]


def encode_text(
    encoders: Mapping[str, nn.Module], tokens: Mapping[str, Tensor], model: ModelConfig
) -> dict[str, Tensor]:
    """Map token ids to `text` (n, 77 + 256, D) and `pooled` (n, P1 + P2).

    Side by side are the CLIP encoders' penultimate layers, padded with zeros to T5's width D; T5's
    last layer follows. As in the pipeline, T5 attends to its padding.
    """
    layers, pooled = [], []
    for name in _CLIP:
        ids = tokens[name.replace("text_encoder", "tokenizer")].flatten(0, 1)
        output = encoders[name](ids, output_hidden_states=True)
        layers.append(output.hidden_states[-2].float())
        pooled.append(output[0].float())
    long = encoders["text_encoder_3"](tokens["tokenizer_3"])[0].float()
    short = torch.cat(layers, dim=-1)
    short = nn.functional.pad(short, (0, long.shape[-1] - short.shape[-1]))
    return {"text": torch.cat([short, long], dim=1), "pooled": torch.cat(pooled, dim=-1)}


def predict(
    denoiser: nn.Module,
    noisy: Tensor,
    time: Tensor,
    condition: Mapping[str, Tensor],
    model: ModelConfig,
    **extra: Any,
) -> Tensor:
    """Run the transformer: latents (n, C, h, w), levels (n,) in
    (0, 1] -> noise - x_0 (n, C, h, w).

    Raises UserError where the latents are larger than the transformer has positions for.
    """
    shape = latent(model)
    height, width = (shape.factor * side for side in noisy.shape[-2:])
    if max(height, width) > (shape.largest or 0):
        raise UserError(
            f"An image of {width}x{height} pixels is too large for model {model.path!r}, whose "
            f"pos_embed_max_size has positions for {shape.largest} a side; nothing can be "
            "predicted there. Use smaller images."
        )
    result: Tensor = denoiser(
        hidden_states=noisy,
        timestep=1000 * time,
        encoder_hidden_states=condition["text"],
        pooled_projections=condition["pooled"],
        return_dict=False,
        **extra,
    )[0]
    return result


def control_branch(denoiser: Any, load: Callable[[str], nn.Module]) -> nn.Module:
    """Return a ControlNet: the transformer's first blocks behind zero layers (arXiv:2302.05543).

    They are 12, or half of them where those are fewer: the transformer spreads what n of them say
    over its blocks but the last, so that of more than half some would never be heard and never
    learn.
    """
    from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel

    # `from_transformer` would write the number of layers into the transformer's own config
    settings = {
        **denoiser.config,
        "num_layers": min(12, len(denoiser.transformer_blocks) // 2),
        "extra_conditioning_channels": 0,
        # true, the pipeline would sample without pooled text and without the VAE's shift
        "force_zeros_for_pooled_projection": False,
    }
    return sd.copy_weights(denoiser, SD3ControlNetModel.from_config(settings))


def hint(parts: Mapping[str, nn.Module], control: Tensor, model: ModelConfig) -> Tensor:
    """Map control images (n, 3, H, W) uint8 to the latents (n, C, h, w) that `control` takes.

    They are the posterior's mean, as in `pipeline`.
    A branch that `force_zeros_for_pooled_projection` reads them without the VAE's shift.
    """
    vae: Any = parts["vae"]
    with torch.no_grad():
        stored = encode_image(vae, (control.float() / 127.5 - 1).to(vae.dtype)).float()
    found = latents(stored, torch.zeros_like(stored.chunk(2, dim=1)[0]), model)
    if _without_pooled(parts["controlnet"]):
        settings = pretrained.vae_config(model)
        found = found + settings["shift_factor"] * settings["scaling_factor"]
    return found


def control(
    branch: nn.Module,
    noisy: Tensor,
    time: Tensor,
    condition: Mapping[str, Tensor],
    hint: Tensor,
    scale: float,
) -> dict[str, Any]:
    """Run the ControlNet on a hint of `hint`; returns what `predict` takes."""
    pooled = condition["pooled"]
    residuals = branch(
        hidden_states=noisy,
        controlnet_cond=hint,
        conditioning_scale=scale,
        timestep=1000 * time,
        encoder_hidden_states=condition["text"],
        pooled_projections=torch.zeros_like(pooled) if _without_pooled(branch) else pooled,
        return_dict=False,
    )[0]
    return {"block_controlnet_hidden_states": residuals}


def _without_pooled(branch: Any) -> bool:
    """Return whether a branch follows the first ControlNets for this model,
    as the pipeline does for it."""
    return bool(branch.config.force_zeros_for_pooled_projection)


def pipeline(
    model: ModelConfig,
    parts: Mapping[str, Any],
    scheduler: str,
    device: torch.device,
) -> Any:
    """Assemble the sampling pipeline, with a part `controlnet` that which takes control images."""
    import diffusers

    sampler = getattr(diffusers, pretrained.scheduler_named(SCHEDULERS, scheduler, model))
    kind = "ControlNet" if "controlnet" in parts else ""
    pipe = getattr(diffusers, f"StableDiffusion3{kind}Pipeline")(
        **sd.components(PARTS, load, model, parts, device),
        scheduler=sampler.from_pretrained(pretrained.folder(model), subfolder="scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    if kind:
        _encode_means(pipe.vae)
    return pipe


def _encode_means(vae: Any) -> None:
    """Let a VAE's posteriors be sampled at their mean, so that a control image always gives the
    same hint.

    The pipeline samples them with the global random state, which no prompt's seed reaches.
    """
    encode = vae.encode

    def means(*arguments: Any, **options: Any) -> Any:
        output = encode(*arguments, **options)
        output.latent_dist.sample = lambda generator=None: output.latent_dist.mode()
        return output

    vae.encode = means


def tiny(folder: str, seed: int = 0) -> None:
    """Write a model folder with tiny random weights: three text encoders, six blocks."""
    import string
    from pathlib import Path

    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    from raytrain.families import _tiny

    root, letters = Path(folder), [*string.ascii_lowercase, *string.digits, *string.punctuation]
    torch.manual_seed(seed)
    plain_vae = {"use_quant_conv": False, "use_post_quant_conv": False}
    _tiny.vae(root / "vae", 1.5305, shift_factor=0.0609, latent_channels=16, **plain_vae)
    for ending, width, pad in (("", 16, "<|endoftext|>"), ("_2", 24, "!")):
        _tiny.tokenizer(root / f"tokenizer{ending}", pad=pad)
        _tiny.clip(root / f"text_encoder{ending}", "CLIPTextModelWithProjection", width)
    special = [(word, 0.0) for word in ("<pad>", "</s>", "<unk>")]
    words = [*special, *((letter, -2.0) for letter in ("▁", *letters))]
    T5TokenizerFast(vocab=words, extra_ids=0).save_pretrained(root / "tokenizer_3")
    T5EncoderModel(T5Config(
        vocab_size=len(words), d_model=48, d_kv=12, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
    )).save_pretrained(root / "text_encoder_3")  # fmt: skip
    SD3Transformer2DModel(
        sample_size=8, num_layers=6, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, caption_projection_dim=32, pooled_projection_dim=96,
        pos_embed_max_size=12, qk_norm="rms_norm", dual_attention_layers=(0,),
    ).save_pretrained(root / "transformer")  # fmt: skip
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(root / "scheduler")
    nothing = {name: [None, None] for name in ("image_encoder", "feature_extractor")}
    _tiny.index(root, "StableDiffusion3Pipeline", **nothing)
