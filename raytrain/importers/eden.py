"""edenartlab/sd-lora-trainer: its training_args.json.

Source of keys and defaults: trainer/config.py; of what they do: main.py, trainer/optimizer.py and
trainer/preprocess.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raytrain.importers import _usual
from raytrain.importers._read import Document, flat
from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    To,
    factor,
    flag,
    none,
    number,
    same,
    whole,
)

ASSUMED: Mapping[str, tuple[Any, str]] = {
    **_usual.ON_A_GPU,
    "train.max_grad_norm": (1e9, "it clips no gradient"),
    "data.captions.lowercase": (True, "it reads captions in lower case"),
}
TARGETS = ["to_k", "to_q", "to_v", "to_out.0", "conv2"]
_CAPTIONERS: Mapping[str, tuple[str, str]] = {
    "florence": ("florence2", "florence-community/Florence-2-large"),
    "blip": ("blip", "Salesforce/blip-image-captioning-large"),
}
WORD = "<TOK>"
"""The new word of a textual inversion; its vectors are theirs of n_tokens."""


def recognizes(documents: Sequence[Document]) -> bool:
    """Tell whether a document is such a JSON file."""
    return any("lora_training_urls" in each.table for each in documents)


def read(documents: Sequence[Document]) -> dict[str, Any]:
    """Return its keys; `pretrained_model`, `token_dict` and `training_attributes`, which a run
    writes, with their tables."""
    return {key: value for each in documents for key, value in flat(dict(each.table)).items()}


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of TrainingConfig."""
    return {
        "ckpt_path": None,
        "concept_mode": "",
        "caption_model": "florence",
        "caption_prefix": "",
        "caption_dropout": 0.1,
        "resolution": 512,
        "train_batch_size": 4,
        "max_train_steps": 300,
        "checkpointing_steps": 10000,
        "is_lora": True,
        "disable_ti": False,
        "n_tokens": 3,
        "unet_optimizer_type": "adamw",
        "unet_lr": 3e-4,
        "ti_lr": 1e-3,
        "lora_weight_decay": 0.004,
        "token_attention_loss_w": 3e-7,
        "l1_penalty": 0.03,
        "noise_offset": 0.02,
        "snr_gamma": 5.0,
        "lora_rank": 16,
        "left_right_flip_augmentation": True,
        "augment_imgs_up_to_n": 40,
        "crop_based_on_salience": True,
        "n_sample_imgs": 4,
        "output_dir": "eden_lora_training_runs",
        "weight_type": "bf16",
    }


def _words_alone(asked: Asked) -> bool:
    """Return whether only new words learn."""
    return number(asked.of("unet_lr")) == 0 and not flag(asked.of("disable_ti"))


def _method(asked: Asked) -> str:
    if _words_alone(asked):
        return "textual_inversion"
    return "lora" if flag(asked.of("is_lora")) else "full"


def _is_lora(value: Any, asked: Asked) -> Said:
    settings: dict[str, Any] = {"method.name": _method(asked)}
    if _method(asked) == "lora":
        settings |= {"method.targets": TARGETS, "method.init": "gaussian"}
    if _words_alone(asked):
        return Said(settings, note="unet_lr = 0: new words alone learn")
    return Said(settings)


def _words(value: Any, asked: Asked) -> Said:
    if flag(value):
        return Said(note="as here")
    if not _words_alone(asked):
        return Said(
            {"data.captions.trigger": "TOK"},
            missing="new words that learn beside the denoiser (pivotal tuning); train them alone, "
            'with method.name = "textual_inversion"',
        )
    return Said({"method.tokens": [WORD], "data.captions.trigger": WORD})


def _of_words(rule: Rule) -> Rule:
    def apply(value: Any, asked: Asked) -> Said:
        return (
            rule(value, asked)
            if _words_alone(asked)
            else Said(note="of new words; see disable_ti")
        )

    return apply


def _of_lora(rule: Rule) -> Rule:
    def apply(value: Any, asked: Asked) -> Said:
        return rule(value, asked) if _method(asked) == "lora" else Said(note="of a LoRA alone")

    return apply


def _ti_rate(value: Any, asked: Asked) -> Said:
    # it falls as (1 - share of the run)^1.7
    return Said({"train.learning_rate": number(value), "train.lr_schedule": "polynomial",
                 "train.lr_schedule_power": 1.7})  # fmt: skip


def _unet_rate(value: Any, asked: Asked) -> Said:
    if _words_alone(asked):
        return Said(note="the denoiser does not learn")
    start = (
        1e-5 if not flag(asked.of("is_lora")) else 2e-4 if flag(asked.of("disable_ti")) else 5e-5
    )
    why = f"a rate that grows by equal factors from {start:g} to this; written is the last"
    if asked.of("unet_optimizer_type") == "prodigy":
        return Said(
            {"train.learning_rate": 1.0}, missing="a rate that overwrites Prodigy's; written is 1"
        )
    return Said({"train.learning_rate": number(value)}, missing=why)


def _optimizer(value: Any, asked: Asked) -> Said:
    if _words_alone(asked):
        return Said(note="of the denoiser, which does not learn")
    if value == "prodigy":
        options = {"use_bias_correction": True, "safeguard_warmup": True,
                   "growth_rate": number(asked.of("unet_prodigy_growth_factor") or 1.05),
                   "d_coef": number(asked.of("prodigy_d_coef") or 1.0)}  # fmt: skip
        written = {f"train.optimizer_options.{key}": each for key, each in options.items()}
        return Said({"train.optimizer": "prodigy", "train.betas": [0.9, 0.99], **written})
    return Said({"train.optimizer": {"AdamW8bit": "adamw8bit"}.get(str(value), str(value))})


def _decay(value: Any, asked: Asked) -> Said:
    if _words_alone(asked):
        return Said(note="new words do not decay here")
    return Said(
        {"train.weight_decay": 0.0 if flag(asked.of("use_dora") or False) else number(value)}
    )


def _penalty(value: Any, asked: Asked) -> Said:
    if not number(value) or flag(asked.of("use_dora") or False) or _method(asked) != "lora":
        return Said(note="off")
    return Said(missing="a penalty on the LoRA's absolute weights")


def _source(value: Any, asked: Asked) -> Said:
    return Said(
        {f"data.subsets[{n}].source": each for n, each in enumerate(str(value).split("|"))}
    )


def _mode(value: Any, asked: Asked) -> Said:
    if value == "face":
        return Said(_mask("face"), note="no mirroring, and the mask is of faces")
    style = value == "style"
    return Said(
        note="the mask is of everything" if style else "the mask is of mask_target_prompts"
    )


def _mask(prompt: str) -> dict[str, Any]:
    return {
        "data.masks.kind": "clipseg",
        "data.masks.path": "CIDAS/clipseg-rd64-refined",
        "data.masks.prompt": prompt,
    }


def _masked(value: Any, asked: Asked) -> Said:
    if asked.of("concept_mode") in ("style", "face"):
        return Said(note=f"concept_mode = {asked.of('concept_mode')} has a mask of its own")
    return Said(_mask(str(value)))


def _salience(value: Any, asked: Asked) -> Said:
    mode = asked.of("concept_mode")
    if not flag(value) or mode == "style":
        return Said(note="cuts are centered")
    prompt = "face" if mode == "face" else asked.of("mask_target_prompts")
    if not prompt:
        return Said(
            missing="a mask of what a language model calls the concept; set data.masks.prompt"
        )
    return Said({**_mask(str(prompt)), "data.buckets.crop": "salience"})


def _flip(value: Any, asked: Asked) -> Said:
    mirrored = flag(value) and asked.of("concept_mode") != "face"
    return Said(
        {"data.augment.flip": mirrored}, note="there only below 40 images" if mirrored else ""
    )


def _captioner(value: Any, asked: Asked) -> Said:
    if value == "no_caption":
        return Said({"data.captions.captioner": "none"})
    if str(value) not in _CAPTIONERS:
        return Said(
            missing=f'captions by {value}; data.captions.captioner = "openai" asks an endpoint, '
            "and data.captions.fallback above 50 images another model"
        )
    name, path = _CAPTIONERS[str(value)]
    return Said({"data.captions.captioner": name, "data.captions.path": path})


def _prefix(value: Any, asked: Asked) -> Said:
    if value:
        return Said({"data.captions.prefix": str(value)})
    return Said(missing="captions that a language model rewrites; see data.captions.rewriter")


def _dropout(value: Any, asked: Asked) -> Said:
    share = number(value)
    if share and flag(asked.of("disable_ti")):
        missing = "captions that leave only TOK, a word that nothing calls; ours leave nothing"
        return Said({"objective.caption_dropout": share}, missing=missing)
    left = {"data.captions.dropped": "trigger"} if share else {}
    return Said({"objective.caption_dropout": share, **left})


def _batch(value: Any, asked: Asked) -> Said:
    batch, steps = whole(value), whole(asked.of("gradient_accumulation_steps") or 1)
    return Said(
        {
            "train.global_batch": batch * steps,
            **({"train.micro_batch": batch} if steps > 1 else {}),
        }
    )


def _checkpoint(value: Any, asked: Asked) -> Said:
    return Said(
        {
            "train.checkpoint_every": whole(value)
            if whole(value) > 0
            else whole(asked.of("max_train_steps"))
        }
    )


def _output(value: Any, asked: Asked) -> Said:
    name = (
        asked.of("name") or str(asked.of("lora_training_urls")).rstrip("/").rpartition("/")[2][:40]
    )
    return Said({"output": f"{str(asked.of('output_dir')).rstrip('/')}/{name}"})


def _checkpoint_file(value: Any, asked: Asked) -> Said:
    if value:
        return _usual.model(value, asked)
    return Said(
        missing="the model it downloads by itself; give model.path, a folder in diffusers layout"
    )


def _text_optimizer(value: Any, asked: Asked) -> Said:
    if not value:
        return Said(note="text encoders do not learn")
    rank, times = (
        whole(asked.of("text_encoder_lora_rank") or 16),
        number(asked.of("lora_alpha_multiplier") or 1),
    )
    rate = factor(asked.of("text_encoder_lora_lr") or 1e-5, asked.of("unet_lr"))
    return Said(
        {"method.text_rank": rank, "method.text_alpha": rank * times, "method.text_rate": rate}
    )


_OF_TEXT = same("of text_encoder_lora_optimizer")
_WRITTEN = same("written by a run")
RULES: Mapping[str, Rule] = {
    "lora_training_urls": _source,
    "sd_model_version": To("model.family", str),
    "ckpt_path": _checkpoint_file,
    "pretrained_model*": _WRITTEN,
    "name": _output,
    "output_dir": _output,
    "seed": To("seed", whole),
    "concept_mode": _mode,
    "caption_model": _captioner,
    "caption_prefix": _prefix,
    "caption_dropout": _dropout,
    "skip_gpt_cleanup": same("captions are rewritten where data.captions.rewriter is set"),
    "prompt_modifier": none("words added to prompts; put them into sample.prompts"),
    "resolution": lambda value, asked: Said(
        {"data.buckets.rule": "mean", "data.buckets.resolution": whole(value)}
    ),
    "train_img_size": _WRITTEN,
    "train_aspect_ratio": _WRITTEN,
    "aspect_ratio_bucketing": none(
        'NovelAI\'s buckets, which fail there; data.buckets.rule = "novelai"'
    ),
    "validation_img_size": none("a size by its area; set sample.width and sample.height"),
    "n_sample_imgs": To("sample.max_prompts", whole),
    "sample_imgs_lora_scale": none("a weaker adapter in images; ours is whole"),
    "train_batch_size": _batch,
    "gradient_accumulation_steps": same("in train.global_batch"),
    "max_train_steps": To("train.steps", whole),
    "num_train_epochs": _WRITTEN,
    "checkpointing_steps": _checkpoint,
    "is_lora": _is_lora,
    "lora_rank": _of_lora(To("method.rank", whole)),
    "lora_alpha_multiplier": _of_lora(
        lambda value, asked: Said({"method.alpha": number(value) * whole(asked.of("lora_rank"))})
    ),
    "use_dora": _of_lora(To("method.dora", flag)),
    "lora_weight_decay": _decay,
    "l1_penalty": _penalty,
    "unet_optimizer_type": _optimizer,
    "unet_lr": _unet_rate,
    "unet_lr_warmup_steps": same("of unet_lr"),
    "prodigy_d_coef": same("of unet_optimizer_type = prodigy"),
    "unet_prodigy_growth_factor": same("of unet_optimizer_type = prodigy"),
    "freeze_unet_before_completion_f": none("a denoiser that waits"),
    "disable_ti": _words,
    "n_tokens": _of_words(To("method.vectors", whole)),
    "inserting_list_tokens": _WRITTEN,
    "token_dict*": _WRITTEN,
    "ti_lr": _of_words(_ti_rate),
    "ti_optimizer": _of_words(To("train.optimizer", str)),
    "ti_weight_decay": _of_words(none("a decay of new words")),
    "freeze_ti_after_completion_f": _of_words(none("new words that stop", off=(1, 1.0))),
    "token_warmup_steps": none("new words fitted to a description first"),
    "token_attention_loss_w": lambda value, asked: (
        Said(note="of new words; see disable_ti")
        if flag(asked.of("disable_ti"))
        else none("a loss on attention to new words")(number(value), asked)
    ),
    **dict.fromkeys(
        ("cond_reg_w", "tok_cond_reg_w", "tok_cov_reg_w"), none("a penalty on new words")
    ),
    "noise_offset": To("objective.noise_offset", number),
    "snr_gamma": lambda value, asked: Said(
        {"objective.min_snr_gamma": number(value)} if number(value) else {}
    ),
    "left_right_flip_augmentation": _flip,
    "augment_imgs_up_to_n": none(
        "changed copies of few images; data.augment.colors and .zooms store some of all"
    ),
    "mask_target_prompts": _masked,
    "crop_based_on_salience": _salience,
    "clipseg_temperature": To("data.masks.options", lambda value: {"temperature": number(value)}),
    "use_face_detection_instead": none('another face mask; data.masks.kind = "face"'),
    "weight_type": To("train.precision", str),
    "text_encoder_lora_optimizer": _text_optimizer,
    "text_encoder_lora_lr": _OF_TEXT,
    "text_encoder_lora_rank": _OF_TEXT,
    "txt_encoders_lr_warmup_steps": _OF_TEXT,
    "text_encoder_lora_weight_decay": none("a decay of the text encoders alone", off=(*OFF, 1e-5)),
    "allow_tf32": none("matrices multiplied in TF32", off=(*OFF, True)),
    "debug": same("prints more"),
    "device": same("the worker's own"),
    "dataloader_num_workers": same("batches are made ahead by themselves"),
    "training_attributes*": _WRITTEN,
    "start_time": _WRITTEN,
    "job_time": _WRITTEN,
}
