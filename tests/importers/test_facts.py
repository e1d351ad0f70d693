"""What single keys of other trainers become: values by hand from their sources."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from raytrain.config import keys
from raytrain.config.file import parse
from raytrain.data.sources import kohya
from raytrain.importers import Document
from raytrain.translate import Entry, to_text, translate
from tests.importers.cases import translated

GUIDE: dict[str, Any] = {
    "model.family": "sdxl",
    "model.path": "models/sdxl",
    "data.format": "kohya",
    "data.held_out": 0.0,
    "data.buckets.rule": "kohya",
    "data.buckets.resolution": 1024,
    "data.buckets.upscale": False,
    "train.lr_schedule": "constant",
    "train.warmup": 0,
    "train.steps": 10_000_000,
    "train.checkpoint_every": "1 epochs",
    "train.gradient_checkpointing": True,
    "train.precision": "bf16",
    "train.gpus_per_worker": 1,
    "export.precision": "bf16",
    "sample.scheduler": "euler_ancestral",
    "sample.prompt_file": "prompts.txt",
}
"""What both commands of the SD-Guide document say."""


def test_the_guides_full_fine_tuning_is_translated_whole() -> None:
    made = translated("kohya/guide_full")
    expected = GUIDE | {
        "output": "runs/guide",
        "model.max_tokens": 225,
        "method.name": "full",
        "train.learning_rate": 5e-6,
        "train.global_batch": 4,
        "train.param_dtype": "bf16",
        "train.rounding": "nearest",
        "train.optimizer": "transformers.optimization.Adafactor",
        "train.optimizer_options.scale_parameter": False,
        "train.optimizer_options.relative_step": False,
        "train.optimizer_options.warmup_init": False,
        "train.sample_every": 5000,
        "data.buckets.step": 32,
        "objective.min_snr_gamma": 5.0,
        "objective.noise_offset": 0.0357,
    }
    assert _read(made.tree, expected) == expected
    assert not made.fault
    missing = {entry.key for entry in made.entries if entry.kind == "without an equal"}
    assert missing == {"adaptive_noise_scale"}


def test_the_guides_lora_is_translated_whole() -> None:
    made = translated("kohya/guide_lora")
    expected = GUIDE | {
        "output": "runs/guide_lora",
        "method.name": "lora",
        "method.rank": 4,
        "method.alpha": 1.0,
        "method.text_rank": 4,
        "method.text_alpha": 1.0,
        "train.optimizer": "adafactor",
        "train.learning_rate": 1e-2,
        "train.global_batch": 3,
        "train.sample_every": 400,
        "data.masks.kind": "folder",
    }
    assert _read(made.tree, expected) == expected
    assert not made.fault
    assert not [entry for entry in made.entries if entry.kind == "without an equal"]
    # it ignores the rate there: Adafactor takes its own
    assert "no effect there" in _entry("kohya/guide_lora", "learning_rate").words


def test_adafactor_with_its_relative_step_is_ours_with_a_rate_of_one_hundredth() -> None:
    from transformers.optimization import Adafactor

    draws = torch.Generator().manual_seed(0)
    shapes = ((32, 16), (8,), (4, 3, 3, 3))
    start = [torch.randn(shape, generator=draws) / 10 for shape in shapes]
    theirs, ours = ([nn.Parameter(each.clone()) for each in start] for _ in range(2))
    steps = Adafactor(theirs), torch.optim.Adafactor(ours, lr=1e-2)
    for _ in range(30):
        for one, other in zip(theirs, ours, strict=True):
            one.grad = torch.randn(one.shape, generator=draws)
            other.grad = one.grad.clone()
        for optimizer in steps:
            optimizer.step()
    for one, other, before in zip(theirs, ours, start, strict=True):
        assert (one - before).abs().max() > 1e-3
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("case", "key", "settings"),
    [
        ("kohya/docs_lora", "lr_warmup_steps", {"train.warmup": "5 %"}),
        ("kohya/docs_lora", "text_encoder_lr", {"method.text_rate": pytest.approx(0.1)}),
        ("kohya/docs_lora", "optimizer_args.betas", {"train.betas": [0.9, 0.99]}),
        ("kohya/docs_lora", "lr_scheduler",
         {"train.lr_schedule": "cosine_restarts", "train.lr_schedule_cycles": 3}),
        ("kohya/docs_lora", "datasets[0].batch_size", {"train.global_batch": 4}),
        ("eden/words_sdxl", "ti_lr",
         {"train.learning_rate": 1e-3, "train.lr_schedule": "polynomial",
          "train.lr_schedule_power": 1.7}),
        ("eden/full_sdxl", "lora_training_urls",
         {"data.subsets[0].source": "sets/style", "data.subsets[1].source": "sets/more"}),
        ("sd_trainer/whole", "trainer.max_t", {"objective.timestep_range": [0.0, 0.5]}),
        ("sd_trainer/whole", "trainer.text_lr", {"method.text_rate": 0.5}),
        ("sd_trainer/whole", "dataset.args.mask",
         {"data.subsets[0].masks": "dataset/mask", "data.masks.kind": "folder"}),
        ("simpletuner/lora_sd1", "backend[0].repeats", {"data.subsets[0].repeats": 5}),
        ("simpletuner/lora_sd1", "backend[1].is_regularisation_data",
         {"data.subsets[1].regularization": True}),
        ("simpletuner/lokr_sdxl", "backend[0].resolution", {"data.buckets.resolution": 1024}),
        ("ai_toolkit/lora_sd35", "config.process[0].train.ema_config.use_ema",
         {"train.ema": 0.99}),
        ("ai_toolkit/lora_sd35", "config.process[0].sample.prompts",
         {"sample.prompts": ["p3r5on at a desk", "a lamp"]}),
        ("diffusers/dreambooth_sdxl", "train_batch_size",
         {"train.global_batch": 4, "train.micro_batch": 1}),
        ("diffusers/controlnet_sdxl", "caption_column",
         {"data.subsets[0].caption_column": "words"}),
        # scaled there by batch and accumulation
        ("diffusers/words_sd15", "learning_rate", {"train.learning_rate": pytest.approx(2e-3)}),
        ("diffusers/controlnet_sdxl", "validation_image",
         {"sample.controls": ["./one.png", "./two.png"]}),
    ],
)  # fmt: skip
def test_a_key_becomes(case: str, key: str, settings: dict[str, Any]) -> None:
    assert dict(_entry(case, key).settings) == settings


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("kohya/guide_lora", {"method.rank": 4}),
        ("eden/face_sd15", {"objective.noise_offset": 0.02, "objective.min_snr_gamma": 5.0,
                            "train.weight_decay": 0.004, "train.max_grad_norm": 1e9}),
        ("sd_trainer/experiment", {"seed": 4545, "train.learning_rate": 1e-3,
                                   "train.lr_schedule": "cosine", "train.warmup": "5 %"}),
        ("simpletuner/lora_sd1", {"sample.negative_prompt": "blurry, cropped, ugly"}),
        ("ai_toolkit/words_sd15", {"model.family": "sd15"}),
        ("diffusers/dreambooth_sdxl", {"train.weight_decay": 1e-4, "method.rank": 4,
                                       "data.buckets.crop": "random"}),
    ],
)  # fmt: skip
def test_defaults_of_theirs_that_differ_are_written_out(
    case: str, settings: dict[str, Any]
) -> None:
    made = translated(case)
    assert _read(made.tree, settings) == settings
    told = [entry for entry in made.entries if entry.kind == "different by default"]
    assert settings.keys() <= {key for entry in told for key in entry.settings}


def test_a_dataset_config_finds_its_own_answers_in_what_it_became() -> None:
    for case in ("kohya/docs_lora", "kohya/guide_full", "kohya/guide_lora"):
        config = parse(translated(case).tree)
        (subset,) = config.data.all_subsets()
        notes = kohya.notes(subset, config)
        assert not [note for note in notes if " counts; " in note or "no effect" in note], case
    captions = _entry("kohya/docs_lora", "datasets[0].subsets[1].keep_tokens")
    assert captions.words == "data.source reads it from the dataset config"


def test_subsets_that_differ_in_what_is_one_here_are_told() -> None:
    text = """
        [[datasets]]
        flip_aug = true
        [[datasets.subsets]]
        image_dir = "one"
        [[datasets.subsets]]
        image_dir = "two"
        flip_aug = false
    """
    line = Document("train.sh", "python train_network.py --output_dir=o")
    made = translate([line, Document("data.toml", text)])
    entries = {entry.key: entry for entry in made.entries}
    assert entries["datasets[0].flip_aug"].settings == {"data.augment.flip": True}
    assert entries["datasets[0].subsets[1].flip_aug"].kind == "without an equal"


def test_no_report_repeats_a_secret() -> None:
    line = "python train_network.py --output_dir=o --wandb_api_key=abcdef --keep_tokens=1"
    made = translate([Document("train.sh", line)])
    assert "abcdef" not in to_text(made, "train.sh")
    assert "abcdef" not in str(made.entries)


def test_a_model_that_is_no_family_is_named_in_the_config() -> None:
    text = json.dumps({"model_family": "flux", "model_type": "lora", "output_dir": "x"})
    made = translate([Document("config.json", text)])
    assert made.tree["model"]["family"] == "flux"
    assert "families plug-in 'flux' does not exist" in made.fault


def _entry(case: str, key: str) -> Entry:
    (found,) = [entry for entry in translated(case).entries if entry.key == key]
    return found


def _read(tree: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    return {key: keys.get(tree, key) for key in expected}
