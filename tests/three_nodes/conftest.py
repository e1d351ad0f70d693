"""Three nodes, an object store that is all they share, and a machine that submits jobs to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from raytrain import families
from raytrain.config.file import parse, to_toml
from raytrain.data.captioners import blip
from raytrain.toy import CLIP
from tests.data.servers import s3, upload
from tests.three_nodes.nodes import Nodes, nodes

BIN = Path(sys.executable).parent
IMAGES = 24
SHAPES = ((120, 120), (150, 100), (100, 150))


@dataclass
class World:
    """What a test has."""

    nodes: Nodes
    client: Any
    """Of the store, by boto3."""
    query: str
    folder: Path
    """Of the machine that submits: it holds the token and the config files alone."""

    def uri(self, *parts: str) -> str:
        """Return an address in the store."""
        return f"s3://bucket/{'/'.join(parts)}{self.query}"

    def config(self, name: str, **tables: Any) -> str:
        """Write a config whose output is `name` in the store; return the file's name."""
        train = {"steps": 8, "global_batch": 4, "learning_rate": 1e-2, "checkpoint_every": 2,
                 "workers": 2, **tables.pop("train", {})}  # fmt: skip
        data = {"source": self.uri("images"), "dataset": self.uri("dataset"), "held_out": 0.2,
                "buckets": {"resolution": 64, "step": 32, "min_side": 32},
                "captions": {"captioner": "blip", "path": self.uri("models", "blip"),
                             "max_new_tokens": 4, "num_beams": 1},
                "encode": {"workers": 2}, **tables.pop("data", {})}  # fmt: skip
        settings = parse({
            "output": self.uri(name), "seed": 1,
            "model": {"family": "sd15", "path": self.uri("models", "sd15")},
            "method": {"name": "lora", "rank": 4}, "data": data, "train": train,
            "sample": {"steps": 1, "max_prompts": 2, "batch": 1, "workers": 2},
            "evaluate": {"clip": self.uri("models", "clip"), "timesteps": 2,
                         "scorers": ["clip_text", "held_out_loss"]},
            **tables,
        })  # fmt: skip
        (self.folder / f"{name}.toml").write_text(to_toml(settings))
        return f"{name}.toml"

    def run(self, command: Sequence[str]) -> str:
        """Run a command on the machine that submits, to a good end; return what it printed."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment(), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    def submit(self, stage: str, config: str, *changes: str) -> str:
        """Submit a stage as `raytrain submit` does it."""
        sets = [word for change in changes for word in ("--set", change)]
        return self.run([str(BIN / "raytrain"), "submit", stage, config, *sets])

    def start(self, stage: str, config: str) -> subprocess.Popen[str]:
        """Submit a stage and do not wait."""
        command = [str(BIN / "raytrain"), "submit", stage, config]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment(), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Return the environment of the machine that submits."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        token = str(self.folder / "token")
        return own | {
            "RAYTRAIN_TOKEN_PATH": token, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token,
            "RAY_ADDRESS": self.nodes.dashboard, "HOME": str(self.folder),
        }  # fmt: skip

    def objects(self, prefix: str) -> list[str]:
        """Return the names of what the store has below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket="bucket", Prefix=prefix
        )
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def driver(self, stage: str) -> psutil.Process | None:
        """Return the process of a job's driver, on the head."""
        for process in psutil.Process(self.nodes.head.process.pid).children(recursive=True):
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if f"jobs.{stage}" in command and "python" in command[0]:
                return process
        return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A head without CPUs or torch, two workers, a store with images and models."""
    folder = tmp_path_factory.mktemp("world")
    families.load("sd15").tiny(str(folder / "models/sd15"))
    blip.tiny(str(folder / "models/blip"))
    draw(folder / "images")
    with s3("bucket") as (client, query):
        upload(client, "bucket", folder / "models", "models")
        upload(client, "bucket", folder / "images", "images")
        upload(client, "bucket", Path(CLIP), "models/clip")
        with nodes() as found:
            submits = tmp_path_factory.mktemp("submits")
            (submits / "token").write_text(found.token)
            (submits / "token").chmod(0o600)
            yield World(found, client, query, submits)


def draw(folder: Path) -> None:
    """Draw images of noise in three shapes, every second one with a caption."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        width, height = SHAPES[number % 3]
        coarse = random.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"{number:03}.png")
        if number % 2:
            (folder / f"{number:03}.txt").write_text(f"pattern {number}")
