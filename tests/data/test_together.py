"""Several preparations of one dataset folder at once, each a command of its own,
and damage while one runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from raytrain.data.store import snapshot
from tests.conftest import workers_here
from tests.data.conftest import SIZES, draw

IMAGES = 40
PATIENCE = 300


@pytest.fixture
def images(tmp_path: Path) -> None:
    for number in range(IMAGES):
        draw(
            tmp_path / "images" / f"{number:02}.png", number, SIZES[number % 3], f"image {number}"
        )


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `python -m jobs.prepare` with a config,
    on the Ray at an address or on this machine."""

    def begin(name: str, config: Config, address: str | None = None) -> subprocess.Popen[str]:
        file = tmp_path / f"{name}.toml"
        file.write_text(tomli_w.dumps(_plain(config.values() | {"cluster": {"address": address}})))
        command = [sys.executable, "-m", "jobs.prepare", str(file)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return begin


def contents(config: Config, number: int | str = "latest") -> dict[str, bytes]:
    """Read every array of a snapshot; return the latents by image."""
    dataset, found = Dataset(config.dataset, str(number)), {}
    for split in ("train", "held_out"):
        for bucket, count in dataset.counts(split).items():
            rows = dataset.rows(bucket, np.arange(count), split)
            assert all(len(values) == count for values in rows.columns.values())
            found |= {
                key: latents.tobytes()
                for key, latents in zip(rows.ids, rows.columns["latents"], strict=True)
            }
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("images")
def test_equal_preparations_at_once_make_one_dataset(
    ray: None, make_config: Callable[..., Config], start: Callable[..., subprocess.Popen[str]]
) -> None:
    from ray import get_runtime_context

    config = make_config(encode={"shard_rows": 8, "cpus_per_worker": 0.5})
    address = get_runtime_context().gcs_address
    running = [start(f"same-{number}", config, address) for number in range(2)]
    for process in running:
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        assert f"{IMAGES} rows ready" in output
    numbers = snapshot.snapshot_numbers(config.dataset)
    read = [contents(config, number) for number in numbers]
    assert [len(found) for found in read] == [IMAGES] * len(numbers)
    assert all(found == read[0] for found in read)
    assert Dataset(config.dataset).manifest.number in numbers


@pytest.mark.usefixtures("images")
@pytest.mark.slow
def test_different_preparations_at_once_each_get_their_snapshot(
    make_config: Callable[..., Config], start: Callable[..., subprocess.Popen[str]]
) -> None:
    configs = [
        make_config(held_out=0.0, captions={"trigger": "alpha"}),
        make_config(held_out=0.0, buckets={"resolution": 48, "step": 16}),
    ]
    running = [start(f"other-{number}", config) for number, config in enumerate(configs)]
    for process in running:
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
    numbers = snapshot.snapshot_numbers(configs[0].dataset)
    seen = set()
    for number in numbers:
        assert len(contents(configs[0], number)) == IMAGES
        dataset = Dataset(configs[0].dataset, str(number))
        seen.add(
            (
                all("alpha" in row["captions"][0] for row in dataset.details("train")),
                max(dataset.counts()),
            )
        )
    assert len(numbers) == len(seen) == 2
    assert {captioned for captioned, _ in seen} == {True, False}
    assert Dataset(configs[0].dataset).manifest.number in numbers


@pytest.mark.usefixtures("images")
def test_damage_while_a_preparation_runs_is_repaired_by_the_next(
    make_config: Callable[..., Config], start: Callable[..., subprocess.Popen[str]]
) -> None:
    config = make_config(encode={"shard_rows": 8, "group_rows": 4})
    process = start("damaged", config)
    latents = Path(config.dataset) / "latents"
    shards: list[Path] = []
    while not shards and process.poll() is None:
        shards = sorted(latents.glob("bucket=*/*.parquet"))
        time.sleep(0.005)
    assert shards, process.communicate()[0]
    shards[0].write_bytes(shards[0].read_bytes()[:-100])
    process.communicate(timeout=PATIENCE)
    whole = parse(config.values() | {"output": f"{config.output}-whole"})
    with workers_here():
        assert prepare(config).kept == IMAGES
        prepare(whole)
    assert contents(config) == contents(whole)
    assert len(contents(config)) == IMAGES


def _plain(tree: Any) -> Any:
    """Return a tree without None, which TOML does not know."""
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in tree.items() if value is not None}
    return [_plain(value) for value in tree] if isinstance(tree, list | tuple) else tree
