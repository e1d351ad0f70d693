"""A config to begin with: for a family of models and what is to be learned, every choice with its
reason.

    write(Path("my.toml"), Start("sdxl", "style", source="images", model="models/sdxl"))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytrain import plugins
from raytrain.errors import UserError, unknown

MODEL, SOURCE = "path/to/the/model", "path/to/your/images"
"""What stands where only the user knows what to fill in."""


@dataclass(frozen=True)
class Purpose:
    """What is to be learned, and how."""

    is_: str
    method: Mapping[str, tuple[Any, str]]
    train: Mapping[str, tuple[Any, str]]
    data: Mapping[str, tuple[Any, str]]
    """By table and key: `captions.trigger`."""


_LENGTH = (1500, "too few learn nothing, too many learn the images by heart; see held_out_loss")
_LORA_RATE = (1e-4, "usual for a LoRA; `raytrain tune` finds a better one")


def _lora(rank: int, why: str) -> dict[str, tuple[Any, str]]:
    return {
        "name": ("lora", "small updates of a frozen model: little memory, a small file"),
        "rank": (rank, why),
    }


PURPOSES: Mapping[str, Purpose] = {
    "style": Purpose(
        "how images look",
        _lora(16, "a style is in all layers, but simple; 4 to 64 are usual"),
        {"steps": _LENGTH, "learning_rate": _LORA_RATE},
        {
            "captions.trigger": ("mystyle", "the word that calls the style; no other word's"),
            "augment.flip": (True, "a mirrored image has the same style"),
        },
    ),
    "face": Purpose(
        "one person's face",
        _lora(16, "enough for one face; 4 to 64 are usual"),
        {"steps": _LENGTH, "learning_rate": _LORA_RATE},
        {
            "captions.trigger": ("myperson", "the word that calls the person; no other word's"),
            "masks.kind": ("face", "the loss counts the face, not what is behind it"),
            "buckets.crop": ("salience", "cuts are made around the face"),
            "augment.flip": (False, "no face is its own mirror image"),
        },
    ),
    "object": Purpose(
        "one object or character",
        _lora(16, "enough for one object; 4 to 64 are usual"),
        {"steps": _LENGTH, "learning_rate": _LORA_RATE},
        {
            "captions.trigger": ("myobject", "the word that calls the object; no other word's"),
            "augment.flip": (True, "false where left and right matter, as for writing"),
        },
    ),
    "control": Purpose(
        "drawing after a control image",
        {"name": ("controlnet", "a copy of the encoder that reads control images")},
        {
            "steps": (20_000, "a ControlNet begins to obey late and at once"),
            "learning_rate": (1e-5, "usual for a ControlNet"),
        },
        {
            "controls.kind": ("canny", 'edges; "depth", "pose", or "folder" for your own'),
            "augment.flip": (True, "the control image is mirrored with its image"),
        },
    ),
    "finetune": Purpose(
        "everything, with thousands of images",
        {"name": ("full", "every weight of the denoiser learns")},
        {
            "steps": (10_000, "some epochs of the data; see `raytrain plan`"),
            "learning_rate": (5e-6, "all weights learn: a tenth or less of a LoRA's"),
            "ema": (0.9999, "an average of the weights draws better than the last ones"),
        },
        {"augment.flip": (True, "twice as many images for nothing")},
    ),
}
_SIDES = {"sd15": 512}
"""Family -> side of the square it was trained on; any other: 1024."""


@dataclass(frozen=True)
class Start:
    """What a config is wanted for."""

    family: str
    purpose: str
    source: str = ""
    model: str = ""

    @property
    def open(self) -> list[str]:
        """Return what only the user can fill in."""
        given = (("model.path", self.model), ("data.source", self.source))
        return [key for key, value in given if not value]


def fits(family: str, method: str) -> bool:
    """Return whether a family has the verbs that a method needs."""
    needs = getattr(plugins.load("methods", method), "NEEDS", ())
    return all(hasattr(plugins.load("families", family), verb) for verb in needs)


def text(start: Start) -> str:
    """Return the config file; UserError where there is no such family, purpose or combination."""
    if start.family not in plugins.names("families"):
        raise unknown("family", start.family, plugins.names("families"))
    if start.purpose not in PURPOSES:
        raise unknown("purpose", start.purpose, PURPOSES)
    purpose = PURPOSES[start.purpose]
    method = purpose.method["name"][0]
    if not fits(start.family, method):
        able = [name for name in plugins.names("families") if fits(name, method)]
        raise UserError(
            f"--for {start.purpose} needs method.name = {method!r}, which the family "
            f"{start.family!r} does not have. Families that do: {', '.join(able)}."
        )
    lines = [f"# {start.family}, for {start.purpose}: {purpose.is_}. `raytrain plan` checks it.\n"]
    for table, keys in _tables(start, purpose):
        lines.append(f"[{table}]" if table else "")
        lines += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}  # {why}"
            for key, (value, why) in keys.items()
        ]
        lines.append("")
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def write(path: Path, start: Start) -> None:
    """Write the config; UserError where there is a file already, or it cannot be written."""
    whole = text(start)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(whole)
    except OSError as error:
        raise UserError(
            f"The config {str(path)!r} cannot be written: {error.strerror or error}. Nothing was "
            "changed; give another path."
        ) from error


def _tables(start: Start, purpose: Purpose) -> Iterator[tuple[str, dict[str, tuple[Any, str]]]]:
    side = _SIDES.get(start.family, 1024)
    yield (
        "",
        {
            "output": (f"runs/{start.purpose}", "all that a run makes; a new folder for each"),
            "seed": (0, "the same seed gives the same run, bit for bit"),
        },
    )
    yield (
        "model",
        {
            "family": (start.family, "what the model is"),
            "path": (start.model or MODEL, "a folder in diffusers layout, or a hub id"),
        },
    )
    yield "method", dict(purpose.method)
    data: dict[str, dict[str, tuple[Any, str]]] = {
        "data": {"source": (start.source or SOURCE, "a folder of images, captions beside them")},
        "data.buckets": {
            "resolution": (side, f"{start.family} was trained on {side} x {side} pixels"),
        },
        "data.encode": {
            "gpus_per_worker": (1, "images and captions are encoded on a GPU; 0: on the CPU"),
        },
    }
    for key, value in purpose.data.items():
        table, _, name = key.partition(".")
        data.setdefault(f"data.{table}", {})[name] = value
    yield from data.items()
    yield (
        "train",
        {
            **purpose.train,
            "global_batch": (4, "images of one step; more is steadier and takes longer"),
            "micro_batch": (1, "images at once on the GPU: the least memory"),
            "warmup": ("2 %", "the first steps are small ones"),
            "lr_schedule": ("cosine", "the last steps are small ones"),
            "precision": ("bf16", "half the memory; fp16 on GPUs without bf16"),
            "gradient_checkpointing": (True, "less memory for a third more time"),
            "gpus_per_worker": (1, "0 trains on the CPU"),
            "checkpoint_every": (250, "what a crash can cost at most"),
            "held_out_every": (250, "whether it still learns, on images it never sees"),
            "sample_every": (250, "what it draws by now"),
        },
    )
    yield (
        "objective",
        {
            "caption_dropout": (
                0.05,
                "drawing without a prompt stays known, which guidance needs",
            ),
        },
    )
    yield "sample", {"max_prompts": (4, "captions of held-out images; or set `prompts`")}
