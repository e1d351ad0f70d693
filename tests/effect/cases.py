"""How each key of the config is changed, where its schema does not say it all: another value, what
it needs beside it, and where its effect is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.effect import handed, see
from tests.effect.world import UNSET

FREE = ("output", "train.steps", "train.epochs", "train.learning_rate", "train.checkpoint_every",
        "train.engine", "train.keep_checkpoints", "train.best_by", "data.dataset", "data.source",
        "data.subsets", "data.subsets.0.source", "data.subsets.0.format", "tune.space",
        "sample.prompts", "log.tensorboard",
        "method.rank",
        "data.partial", "method.text_rank",
        "method.factor", "method.tokens")  # fmt: skip
"""Companions that only make an effect possible to see, or large enough."""


@dataclass(frozen=True)
class Case:
    """One key."""

    value: Any = UNSET
    """What it is changed to; by default a value its schema allows."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Keys that it needs beside it, of both configs. Without them it must be refused, or a line
    must say that it has no effect, unless all of them are in `FREE`."""
    see: see.Look | None = None
    """Where its effect is seen; by default where that of its table is."""
    refused: str = ""
    """Part of the message, where the change is a mistake here, and so seen."""

    alone: bool = False
    """It has an effect without them too, but not in so small a world."""

    @property
    def needs(self) -> bool:
        """Whether the key has no effect alone."""
        return not self.alone and bool(set(self.given) - set(FREE))


CONV = {"method.conv_rank": 2}
TOKENS = {"data.dataset": "{root}/tokens"}
TEXT = {**TOKENS, "method.text_rank": 2}
WORDS = {**TOKENS, "method.tokens": ["<new>"]}
MASKED = {"data.masks.kind": "folder", "data.subsets.0.masks": "{root}/masks"}
SCORE = {"data.quality.scores": [{"name": "s", "kind": "sharpness", "min": 0.0}]}
CHAT = {"data.captions.captioner": "openai",
        "data.captions.options": {"base_url": "{chat}", "model": "m"}}  # fmt: skip
REWRITE = {"data.captions.rewriter": "openai",
           "data.captions.rewriter_options": {"base_url": "{chat}", "model": "m"}}  # fmt: skip
RECORDS = {"data.subsets.0.source": "{root}/records", "data.subsets.0.format": "auto"}
PROMPTS = {"sample.prompts": ["a red star", "a ring"]}
CLIP = {"evaluate.scorers": ["clip_text", "clip_image", "diversity"]}
TRAINED = {"output": "{root}/trained"}
AVERAGED = {**TRAINED, "train.ema": 0.5}
ASYNC = {"train.async_validation": True}
THREE = {"train.steps": 3}

CASES: dict[str, Case] = {
    "output": Case("{root}/elsewhere", see=handed.trained_where),
    # [model]
    "model.family": Case("sdxl", see=see.dataset, refused="must hold"),
    "model.path": Case("{root}/other", see=see.images),
    "model.revision": Case("second", given={"model.path": "some/model"}, see=handed.from_hub),
    "model.variant": Case("fp16", see=see.images),
    "model.vae": Case("{root}/other", see=see.images),
    "model.max_tokens": Case(see=see.dataset),
    "model.weights": Case(given={"method.name": "full"}, see=see.model),
    "model.quantize": Case(see=see.model),
    # [method]
    "method[lora].targets": Case(["to_q"]),
    "method[loha].targets": Case(["to_q"]),
    "method[lokr].targets": Case(["to_q"]),
    "method[lora].conv_alpha": Case(given=CONV),
    "method[loha].conv_alpha": Case(given=CONV),
    "method[lokr].conv_alpha": Case(given=CONV),
    "method[loha].tucker": Case(given=CONV),
    "method[lokr].tucker": Case(given={"method.conv_rank": 1}),
    "method[lokr].rank": Case(1),
    "method[lokr].decompose_both": Case(given={"method.rank": 1, "method.factor": 4}),
    "method[lora].text_rank": Case(3, given=TEXT),
    "method[lora].text_alpha": Case(given=TEXT),
    "method[lora].text_targets": Case(["q_proj"], given=TEXT),
    "method[lora].text_rate": Case(given=TEXT),
    "method[textual_inversion].tokens": Case(["<one>", "<two>"], given=WORDS),
    "method[textual_inversion].vectors": Case(given=WORDS),
    "method[textual_inversion].init": Case("red", given=WORDS),
    "method[controlnet].path": Case("{root}/branch", given={"data.dataset": "{root}/controlled"}),
    "method[controlnet].scale": Case(given={"data.dataset": "{root}/controlled"}),
    # [data]
    "data.source": Case("{root}/others", given={
        "data.subsets": [], "data.source": "{root}/images"}),
    "data.format": Case("folder", given={"data.subsets": [], "data.source": "{root}/10_folders"}),
    "data.subsets.0.source": Case("{root}/others"),
    "data.subsets.0.format": Case("kohya", given={"data.subsets.0.source": "{root}/10_folders"}),
    "data.subsets.0.trigger": Case("fox"),
    "data.subsets.0.prefix": Case("photo of"),
    "data.subsets.0.suffix": Case("at night"),
    "data.subsets.0.masks": Case("{root}/masks", see=see.dataset, given={
        "data.masks.kind": "folder", "data.subsets.0.masks": "{root}/controls"}),
    "data.subsets.0.controls": Case("{root}/controls", see=see.dataset, given={
        "data.controls.kind": "folder", "data.subsets.0.controls": "{root}/masks"}),
    "data.dataset": Case("{root}/apart", see=handed.prepared_where),
    "data.snapshot": Case("1", given={"data.dataset": "{root}/grown"}, see=see.draws),
    "data.partial": Case(False, see=see.draws, refused="still running", given={
        "data.dataset": "{root}/partial", "data.partial": True}),
    "data.balance": Case(see=see.dataset, given={"data.held_out": 0.0, "data.subsets": [
        {"source": "{root}/images", "format": "folder"},
        {"source": "{root}/others", "repeats": 2}]}),
    "data.held_out": Case(0.1, see=see.dataset),
    "data.repeats": Case(given={"train.epochs": 1, "train.steps": None}, see=see.draws),
    "data.max_pixels": Case(64 * 64),
    "data.background": Case("black", see=see.dataset),
    "data.allow_rejected": Case(see=handed.prepare_command),
    "data.fetch.timeout": Case(see=handed.fetching),
    "data.fetch.retries": Case(see=handed.fetching),
    "data.fetch.max_bytes": Case(5000),
    "data.quality.min_side": Case(50),
    "data.quality.min_area": Case(64 * 64),
    "data.quality.near_duplicates": Case(),
    "data.quality.scores.0.name": Case("t", given=SCORE),
    "data.quality.scores.0.kind": Case("classifier", given=SCORE, refused="path of the score"),
    "data.quality.scores.0.min": Case(1.1, given=SCORE),
    "data.quality.scores.0.max": Case(1.1, given=SCORE),
    "data.quality.scores.0.options": Case({"side": 16}, given=SCORE),
    "data.buckets.rule": Case("mean"),
    "data.buckets.resolution": Case(80),
    "data.buckets.resolutions": Case([32, 64]),
    "data.buckets.step": Case(8),
    "data.buckets.max_ratio": Case(1.25),
    "data.buckets.min_side": Case(64),
    "data.buckets.max_side": Case(64),
    "data.buckets.sizes": Case([[64, 64]]),
    "data.buckets.resample": Case(see=see.dataset),
    "data.augment.up_to": Case(40),
    "data.augment.crops": Case(given={"data.buckets.crop": "random"}),
    "data.augment.hue": Case([0.2, 0.3], given={"data.augment.colors": 1}),
    "data.augment.brightness": Case(given={"data.augment.colors": 1}),
    "data.augment.contrast": Case(given={"data.augment.colors": 1}),
    "data.augment.saturation": Case(given={"data.augment.colors": 1}),
    "data.augment.blur": Case(0.0, given={"data.augment.colors": 2}),
    "data.augment.zoom": Case([0.5, 0.6], given={"data.augment.zooms": 1}),
    "data.augment.outpaint": Case([0.4, 0.5], given={"data.augment.outpaints": 1}),
    # [data.captions]
    "data.captions.captioner": Case("openai", given={"data.captions.options": {
        "base_url": "{chat}", "model": "m"}}),
    "data.captions.prompt": Case("in rhyme", given=CHAT),
    "data.captions.max_new_tokens": Case(given=CHAT),
    "data.captions.options": Case({"base_url": "{chat}", "model": "n"}, given=CHAT),
    "data.captions.replace": Case(given=CHAT),
    "data.captions.trigger": Case("zwx"),
    "data.captions.placeholder": Case("red", given={"data.captions.trigger": "zwx"}),
    "data.captions.prefix": Case("photo of"),
    "data.captions.suffix": Case("at night"),
    "data.captions.separator": Case(";"),
    "data.captions.keep_tags": Case(2, given={"data.captions.variants": 3}),
    "data.captions.tag_dropout": Case(0.5, given={"data.captions.variants": 3}),
    "data.captions.drop_tags": Case(["soft"]),
    "data.captions.lowercase": Case(),
    "data.captions.strip": Case("."),
    "data.captions.affixes": Case("raw", given={"data.captions.prefix": "photo of"}, alone=True),
    "data.captions.lines": Case("first"),
    "data.captions.keep_separator": Case("|||", given={"data.captions.variants": 3}),
    "data.captions.secondary_separator": Case(";;;"),
    "data.captions.shuffle_tags": Case(given={"data.captions.variants": 3}),
    "data.captions.warmup_stages": Case(2, given={"objective.caption_warmup": 2,
                                                  "data.captions.warmup_stages": 3}),
    "data.captions.warmup_min": Case(2, given={"objective.caption_warmup": 2,
                                               "data.captions.warmup_stages": 2}),
    "data.captions.dropped": Case("trigger", given={"data.captions.trigger": "zwx",
                                                    "objective.caption_dropout": 0.5}),
    "data.captions.rating_words": Case({"e": "explicit"}, given=RECORDS),
    "data.captions.meta_tags": Case(["highres"], given=RECORDS),
    "data.caption_column": Case("words", given={
        "data.subsets": [], "data.source": "{root}/records"}),
    "data.subsets.0.caption_column": Case("words", given=RECORDS),
    "data.captions.quality_tags": Case({"fine": 0.0}, given={
        **SCORE, "data.captions.quality_score": "s"}),
    "data.captions.quality_score": Case("u", given={
        "data.quality.scores": [{"name": "s", "kind": "sharpness"},
                                {"name": "u", "kind": "sharpness", "options": {"side": 16}}],
        "data.captions.quality_tags": {"fine": 0.0, "best": 100.0},
        "data.captions.quality_score": "s"}),
    "data.captions.fallback": Case({"above": 1, "captioner": "openai", "options": {
        "base_url": "{chat}", "model": "n"}}, given=CHAT),
    "data.captions.rewriter": Case("openai", given={
        "data.captions.rewriter_options": {"base_url": "{chat}", "model": "m"}}),
    "data.captions.rewriter_options": Case({"base_url": "{chat}", "model": "n"}, given=REWRITE),
    # layers
    "data.masks.kind": Case("alpha"),
    "data.masks.train": Case(given=MASKED),
    "data.masks.options": Case({"missing": "white"}, given={
        **MASKED, "data.subsets.0.masks": "{root}/few"}),
    "data.controls.kind": Case("canny"),
    "data.controls.options": Case({"low": 10.0, "high": 20.0}, given={
        "data.controls.kind": "canny"}),
    # [data.encode]
    "data.encode.precision": Case(see=see.dataset),
    "data.encode.workers": Case(2, see=see.layout),
    "data.encode.max_workers": Case(3, see=see.layout),
    "data.encode.cpus_per_worker": Case(see=see.layout),
    "data.encode.gpus_per_worker": Case(see=see.layout, refused="no GPU"),
    "data.encode.batch": Case(2, see=see.layout),
    "data.encode.shard_mb": Case(1, see=see.layout),
    "data.encode.shard_rows": Case(2, see=see.layout),
    "data.encode.group_rows": Case(2, see=see.layout),
    # [objective]
    "objective.prediction": Case("v_prediction", see=see.steps),
    "objective.min_snr_gamma": Case(0.01, see=see.steps),
    "objective.timestep_range": Case(see=see.steps),
    "objective.caption_dropout": Case(0.9),
    "objective.caption_dropout_epochs": Case(1),
    "objective.caption_warmup": Case(4, given={"data.dataset": "{root}/growing",
        "data.captions.warmup_stages": 2, "objective.caption_warmup": 2, "train.steps": 4}),
    # [train]
    "train.epochs": Case(2, given={"train.steps": None}),
    "train.micro_batch": Case(1, see=handed.started),
    "train.lr_schedule_power": Case(1.5, given={**THREE, "train.lr_schedule": "polynomial"}),
    "train.lr_schedule_cycles": Case(3, given={
        "train.steps": 6, "train.lr_schedule": "cosine_restarts"}),
    "train.warmup": Case(2),
    "train.optimizer": Case("lion", given={"train.learning_rate": 1e-2}),
    "train.optimizer_options": Case({"amsgrad": True}, given={**THREE,
        "train.optimizer": "torch.optim.AdamW", "train.learning_rate": 0.1,
        "train.betas": UNSET, "train.epsilon": UNSET, "train.weight_decay": UNSET}),
    "train.max_grad_norm": Case(1e-6),
    "train.param_dtype": Case(given={"train.precision": "bf16"}),
    "train.rounding": Case(given={"train.precision": "bf16", "train.param_dtype": "bf16"}),
    "train.gradient_checkpointing": Case(see=handed.started),
    "train.memory_format": Case("channels_last", see=handed.started),
    "train.deterministic": Case(see=handed.kernels, given={"train.gpus_per_worker": 1}),
    "train.compile": Case(see=handed.started),
    "train.engine": Case("ddp", see=handed.started),
    "train.offload": Case("none", see=handed.planned, given={"train.engine": "zero2"}),
    "train.memory_gb": Case(1e-6, see=handed.planned),
    "train.workers": Case(2, see=handed.launched),
    "train.min_workers": Case(1, see=handed.launched, given={"train.workers": 2}),
    "train.cpus_per_worker": Case(2, see=handed.launched),
    "train.gpus_per_worker": Case(1, see=handed.launched),
    "train.max_failures": Case(see=handed.launched),
    "train.hang_minutes": Case(see=handed.started),
    "train.log_every": Case(1, given={**THREE, "log.tensorboard": True}),
    "train.checkpoint_every": Case(1),
    "train.keep_checkpoints": Case(1, given={"train.steps": 4, "train.checkpoint_every": 1}),
    "train.best_by": Case({"loss": 1.0}, given={"train.steps": 4, "train.checkpoint_every": 1,
        "train.keep_checkpoints": 1, "train.best_by": {"loss": -1.0}}),
    "train.held_out_every": Case(1, given=THREE),
    "train.sample_every": Case(1),
    "train.score_every": Case(1, given=THREE),
    "train.async_validation": Case(see=handed.launched),
    "train.async_validation_cpus": Case(2, see=handed.beside, given=ASYNC),
    "train.async_validation_gpus": Case(1, see=handed.beside, given=ASYNC),
    # [sample]
    "sample.prompts": Case(["a red star"]),
    "sample.prompt_file": Case("{root}/prompts.txt"),
    "sample.controls": Case(["{root}/controls/1.png", "{root}/controls/2.png"], given={
        **PROMPTS, "method.name": "controlnet", "data.dataset": "{root}/controlled",
        "sample.controls": ["{root}/controls/0.png", "{root}/controls/2.png"]}),
    "sample.max_prompts": Case(1, given=PROMPTS),
    "sample.negative_prompt": Case("blurry", given=PROMPTS),
    "sample.scheduler": Case("euler"),
    "sample.width": Case(24),
    "sample.height": Case(24),
    "sample.batch": Case(1, given=PROMPTS),
    "sample.workers": Case(2, see=handed.drawn),
    "sample.gpus_per_worker": Case(0.5, see=handed.drawn),
    # [evaluate]
    "evaluate.scorers": Case(["clip_text"]),
    "evaluate.clip": Case("{root}/clip2", given=CLIP),
    "evaluate.legacy": Case(given=CLIP),
    "evaluate.bootstrap": Case(100, given=CLIP, alone=True),
    "evaluate.confidence": Case(0.5),
    "evaluate.max_held_out": Case(1),
    "evaluate.max_references": Case(1, given=CLIP),
    # [tune]
    **{f"tune.{name}": Case(value, see=handed.searched) for name, value in {
        "trials": 20, "concurrent": 2, "objective": {"held_out_loss": -2.0}, "stopper": "none",
        "grace": 2, "reduction": 4, "include_default": False, "seed": 1,
    }.items()},
    "tune.storage": Case("journal://{root}/studies.log", see=handed.kept),
    "tune.evaluations": Case(2, see=handed.searched, given={"train.steps": 12}),
    **{f"tune.space.*.{kind}": Case({key: {kind: second}}, see=handed.searched, given={
        "tune.space": {key: {kind: first}}}) for key, kind, first, second in (
        ("train.learning_rate", "log", [1e-3, 1e-2], [1e-3, 1e-1]),
        ("train.learning_rate", "linear", [1e-3, 1e-2], [1e-3, 1e-1]),
        ("train.warmup", "int", [1, 9], [2, 9]), ("train.warmup", "choice", [1, 9], [2, 9]))},
    # [export], [cluster], [log]
    "export.formats": Case(["kohya"], given=TRAINED),
    "export.precision": Case("fp32", given=TRAINED),
    "export.ema": Case(given=AVERAGED),
    "cluster.address": Case("10.0.0.1:6379"),
    "cluster.num_cpus": Case(3),
    "log.wandb": Case("offline", see=handed.sinks),
    "log.project": Case("other", given={"log.wandb": "offline"}, see=handed.sinks),
    "log.metrics": Case(False, see=handed.exported),
    "log.worker_output": Case(see=handed.connection),
}  # fmt: skip

ELSEWHERE: dict[str, tuple[str, str]] = {
    "model.size_ids": ("needs SDXL", "tests/data/test_feature_cut.py"),
    "data.buckets.nearest": ("sizes between buckets", "tests/data/buckets/test_rules.py"),
    "data.super_resolution.path": ("weights of Swin2SR", "tests/data/test_super_resolution.py"),
    "data.super_resolution.below": ("weights of Swin2SR", "tests/data/test_super_resolution.py"),
    "data.augment.outpainter": ("a pipeline that paints", "tests/data/test_feature_versions.py"),
    "data.augment.outpainter_options": (
        "a pipeline that paints",
        "tests/data/test_feature_versions.py",
    ),
    "data.augment.face_range": ("images of faces", "tests/data/test_feature_versions.py"),
    "data.augment.face_options": ("images of faces", "tests/data/test_feature_versions.py"),
    "data.captions.cropped": ("a captioner that looks", "tests/data/test_feature_cut.py"),
    "data.captions.rewriter_images": ("sets of several sizes", "tests/data/test_few_images.py"),
    "data.captions.rewriter_trim": ("sets of several sizes", "tests/data/test_few_images.py"),
    "data.fetch.trust_addresses": (
        "needs a web server that counts what is read",
        "tests/data/test_feature_sources.py",
    ),
    "data.quality.scores.0.path": (
        "weights of a classifier",
        "tests/data/scores/test_scores.py",
    ),
    "data.captions.path": ("weights of a captioner", "tests/data/captioners/test_local.py"),
    "data.captions.revision": ("a hub", "tests/data/captioners/test_local.py"),
    "data.captions.num_beams": ("weights of a captioner", "tests/data/captioners/test_local.py"),
    "data.masks.path": ("weights of CLIPSeg", "tests/data/masks/test_masks.py"),
    "data.masks.prompt": ("weights of CLIPSeg", "tests/data/masks/test_masks.py"),
    "data.controls.path": ("weights of a depth model", "tests/data/controls/test_controls.py"),
    "cluster.wait_minutes": ("a cluster that is joined", "tests/jobs/test_waiting.py"),
    "data.encode.publish_minutes": ("a long preparation", "tests/data/test_prepare.py"),
    "sample.offload": ("needs a GPU", "tests/test_sample_offload.py"),
    "evaluate.aesthetic": ("weights of a ResNet-50", "tests/evaluate/test_scorers.py"),
}
"""Key -> why its effect is not seen here, and the tests that see it."""
