"""Images, models and a short run in which every key of the config can show what it does."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from raytrain import families, storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.prepare import prepare
from raytrain.model import build as build_model
from raytrain.toy import parts
from raytrain.train.worker import train
from tests.conftest import workers_here
from tests.data.conftest import draw

SHAPES = ((64, 64), (96, 56), (56, 96), (150, 60), (40, 40), (64, 64))
Keys = Mapping[str, Any]
UNSET: Any = object()
"""A key that is left out again."""


@dataclass
class World:
    """A folder of everything; `{root}` in a value is its path."""

    root: Path
    chat: str = ""
    """Address of a language model, `{chat}` in a value."""
    seen: dict[str, Any] = field(default_factory=dict)
    """What was looked at before, by observer and config."""
    _names: Any = field(default_factory=itertools.count)

    def config(self, *changes: Keys) -> Config:
        """Return the base config with changes by dotted keys, the later ones last."""
        tree: dict[str, Any] = {}
        for keys in (BASE, *changes):
            for key, value in keys.items():
                put(tree, key, UNSET if value is UNSET else self.filled(value))
        return parse(_set(tree))

    def filled(self, value: Any) -> Any:
        """Return a value with the folder put in."""
        if isinstance(value, str):
            return value.replace("{root}", str(self.root)).replace("{chat}", self.chat)
        if isinstance(value, dict):
            return {key: self.filled(each) for key, each in value.items()}
        return [self.filled(each) for each in value] if isinstance(value, list) else value

    def fresh(self) -> str:
        """Return a folder that is not there yet."""
        return str(self.root / "made" / str(next(self._names)))


def _set(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _set(value) if isinstance(value, dict) else value
            for key, value in tree.items() if value is not UNSET}  # fmt: skip


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested tables, in place; a number is a place in a list."""
    *path, last = key.split(".")
    node: Any = tree
    for name in path:
        node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
    node[last] = value


BASE: Keys = {
    "output": "{root}/run",
    "model.path": "{root}/model",
    "data.subsets": [{"source": "{root}/images", "format": "folder"}],
    "data.dataset": "{root}/dataset",
    "data.buckets.resolution": 64,
    "data.buckets.step": 16,
    "data.held_out": 0.6,
    "data.encode.batch": 4,
    "train.steps": 2,
    "train.global_batch": 2,
    "train.learning_rate": 0.01,
    "train.score_every": 100,
    "evaluate.scorers": ["held_out_loss"],
    "evaluate.timesteps": 1,
    "evaluate.max_held_out": 3,
    "evaluate.clip": "{root}/clip",
    "tune.objective": {"held_out_loss": -1.0},
    "tune.space": {"train.learning_rate": {"log": [1e-3, 1e-1]}},
    "sample.steps": 2,
    "sample.max_prompts": 2,
    "sample.width": 16,
    "sample.height": 16,
    "log.tensorboard": False,
}
"""As bare as it can be, small, and quick."""


def build(root: Path, chat: str) -> World:
    """Make the world; `chat` is the address of a language model."""
    world = World(root, chat)
    _models(root)
    _images(root)
    with workers_here():
        for name, changes in DATASETS.items():
            prepare(world.config({"data.dataset": f"{root}/{name}"}, changes))
        shutil.copytree(root / "stored", root / "partial")
        manifest = root / "partial" / "manifest.json"
        storage.write_json(str(manifest), {**storage.read_json(str(manifest)), "complete": False})
        shutil.copytree(root / "stored", root / "grown")
        prepare(
            world.config({"data.dataset": f"{root}/grown", "data.captions.prefix": "photo of"})
        )
    train(world.config({"data.dataset": "{root}/stored", "output": "{root}/trained",
                        "train.ema": 0.5, "train.checkpoint_every": 1}))  # fmt: skip
    branch = build_model(world.config({"method.name": "controlnet", "model.path": "{root}/other"}),
                         torch.device("cpu")).parts["controlnet"]  # fmt: skip
    branch.save_pretrained(root / "branch")
    return world


CONTROLLED = {"data.controls.kind": "folder", "data.subsets.0.controls": "{root}/controls"}
DATASETS: Mapping[str, Keys] = {
    "stored": {},
    "tokens": {"method.text_rank": 2, "data.captions.trigger": "<new>"},
    "growing": {"data.captions.warmup_stages": 2, "objective.caption_warmup": 2},
    "controlled": {"method.name": "controlnet", **CONTROLLED},
}


def _models(root: Path) -> None:
    """Two models, the first with the second's weights as its variant `fp16`; two CLIPs."""
    families.load("sd15").tiny(str(root / "model"))
    families.load("sd15").tiny(str(root / "other"), seed=1)
    for file in (root / "other").glob("*/*.safetensors"):
        variant = root / "model" / file.parent.name / f"{file.stem}.fp16.safetensors"
        save_file({k: v.half() for k, v in load_file(file).items()}, variant, {"format": "pt"})
    for name, seed in (("clip", 0), ("clip2", 1)):
        torch.manual_seed(seed)
        tokens = parts.tokenizer()
        for part in (tokens, parts.clip(tokens), parts.image_processor()):
            part.save_pretrained(root / name)


def _images(root: Path) -> None:
    """Images of several shapes with tags, masks and controls: one transparent, one nearly like
    another, one without a caption, one broken; and a folder of others."""
    for number, size in enumerate(SHAPES):
        caption = None if number == 5 else f"TOK image, red, round, tag {number}, soft"
        draw(root / "images" / f"{number}.png", number, size, caption)
        for name, seed in (("masks", 100), ("controls", 200)):
            draw(root / name / f"{number}.png", seed + number, size)
    with Image.open(root / "images" / "1.png") as image:
        layer = image.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    layer.save(root / "images" / "1.png")
    with Image.open(root / "images" / "0.png") as image:
        near = image.convert("RGB")
    near.putpixel((0, 0), (1, 2, 3))
    near.save(root / "images" / "near.png")
    (root / "images" / "near.txt").write_text("TOK image ; ; nearly")
    (root / "images" / "broken.png").write_bytes((root / "images" / "0.png").read_bytes()[:60])
    for number in range(3):
        draw(root / "others" / f"other {number}.png", 50 + number, (64, 64), f"other {number}")
    (root / "images" / "2.txt").write_text(
        "Red {hat|cap}, one ||| two, three;;;four, five, six, seven.\nA second line."
    )
    shutil.copytree(root / "others", root / "records")
    lines = [
        {"file_name": f"other {number}.png", "text": f"text {number}", "words": f"words {number}",
         "rating": "e", "tag_string_meta": "highres", "score": number}
        for number in range(3)
    ]  # fmt: skip
    (root / "records" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (root / "few").mkdir()
    shutil.copy(root / "masks" / "0.png", root / "few" / "0.png")
    shutil.copytree(root / "others", root / "10_folders" / "10_cat")
    (root / "prompts.txt").write_text("a red star\na ring --s 1\n")
