"""Images, models and a short run in which every key of the config can show what it does."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file, save_file

from raytrain import families
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.prepare import prepare
from raytrain.train.worker import train
from tests.conftest import workers_here
from tests.data.conftest import draw

SHAPES = ((64, 64), (96, 56), (56, 96), (150, 60), (40, 40), (64, 64))
Keys = Mapping[str, Any]


@dataclass
class World:
    """A folder of everything; `{root}` in a value is its path."""

    root: Path
    seen: dict[str, Any] = field(default_factory=dict)
    """What was looked at before, by observer and config."""
    _names: Any = field(default_factory=itertools.count)

    def config(self, *changes: Keys) -> Config:
        """Return the base config with changes by dotted keys, the later ones last."""
        tree: dict[str, Any] = {}
        for keys in (BASE, *changes):
            for key, value in keys.items():
                put(tree, key, self.filled(value))
        return parse(tree)

    def filled(self, value: Any) -> Any:
        """Return a value with the folder put in."""
        if isinstance(value, str):
            return value.replace("{root}", str(self.root))
        if isinstance(value, dict):
            return {key: self.filled(each) for key, each in value.items()}
        return [self.filled(each) for each in value] if isinstance(value, list) else value

    def fresh(self) -> str:
        """Return a folder that is not there yet."""
        return str(self.root / "made" / str(next(self._names)))


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
    "data.encode.batch": 4,
    "train.steps": 2,
    "train.global_batch": 2,
    "train.learning_rate": 0.01,
    "train.score_every": 100,
    "evaluate.scorers": ["held_out_loss"],
    "evaluate.timesteps": 1,
    "evaluate.clip": "{root}/clip",
    "sample.steps": 2,
    "sample.max_prompts": 2,
    "sample.width": 16,
    "sample.height": 16,
    "log.tensorboard": False,
}
"""As bare as it can be, small, and quick."""


def build(root: Path) -> World:
    """Make the world."""
    world = World(root)
    _models(root)
    _images(root)
    with workers_here():
        prepare(world.config())
        shutil.copytree(root / "dataset", root / "stored")
    train(world.config({"data.dataset": "{root}/stored", "output": "{root}/trained",
                        "train.ema": 0.5, "train.checkpoint_every": 1}))  # fmt: skip
    return world


def _models(root: Path) -> None:
    """Two models, the first with the second's weights as its variant `fp16`; two CLIPs."""
    families.load("sd15").tiny(str(root / "model"))
    families.load("sd15").tiny(str(root / "other"), seed=1)
    for file in (root / "other").glob("*/*.safetensors"):
        variant = root / "model" / file.parent.name / f"{file.stem}.fp16.safetensors"
        save_file({k: v.half() for k, v in load_file(file).items()}, variant, {"format": "pt"})
    import torch

    from raytrain.toy import parts

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
    (root / "images" / "near.txt").write_text("TOK image, nearly")
    (root / "images" / "broken.png").write_bytes((root / "images" / "0.png").read_bytes()[:60])
    for number in range(3):
        draw(root / "others" / f"{number}.png", 50 + number, (64, 64), f"other {number}")
