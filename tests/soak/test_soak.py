"""The kill harness itself: a short soak, and that it sees what it looks for."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raytrain import storage
from raytrain.config import Config
from raytrain.data.prepare import prepare
from tests.data.conftest import draw, here, make_config, model  # noqa: F401 - fixtures
from tests.soak import _kills
from tests.soak.__main__ import STAGES
from tests.soak._nodes import ROOT
from tests.soak.prepare import Kill, is_well, state, stored, summary

GOOD = Kill(
    number=1, kind="driver", victim="process 1", moment=1.0, exit_code=-9,
    finished_by_itself=False, seconds=1.0, again_exit_code=0, again_seconds=1.0, arrays_before=3,
    arrays_after=9, encoded_again=2, shards_lost=0.5, duplicates=0, missing=0,
    equal_to_undisturbed=True,
)  # fmt: skip


@pytest.mark.slow
def test_a_soak_of_one_kill(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    command = [
        sys.executable,
        "-m",
        "tests.soak",
        "--kills",
        "1",
        "--images",
        "24",
        "--output",
        str(output),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    [record] = found.pop("records")
    lost = found.pop("max_shards_lost")
    assert found == {
        "stage": "prepare",
        "kills": 1,
        "duplicates": 0,
        "missing": 0,
        "equal_to_undisturbed": True,
    }
    assert 0 <= lost <= 1
    assert record["victim"]
    assert record["arrays_after"] >= record["arrays_before"]


@pytest.mark.parametrize(
    "fault",
    [
        {"missing": 1},
        {"duplicates": 1},
        {"equal_to_undisturbed": False},
        {"shards_lost": 1.1},
        {"again_exit_code": 1},
    ],
)
def test_one_bad_kill_fails_the_soak(fault: dict[str, float]) -> None:
    assert is_well([GOOD, GOOD])
    assert not is_well([GOOD, replace(GOOD, **fault)])
    assert summary([GOOD, replace(GOOD, shards_lost=0.7)])["max_shards_lost"] == 0.7


def test_every_kind_of_victim_has_its_turn() -> None:
    found = _kills.kinds(20, random.Random(3))
    assert {found.count(kind) for kind in _kills.KINDS} == {6, 7}
    assert found != sorted(found)
    assert STAGES == ["elastic", "pairs", "prepare", "save", "train"]


@pytest.mark.usefixtures("here")
def test_damage_shows_in_the_state(tmp_path: Path, make_config: Callable[..., Config]) -> None:  # noqa: F811
    for number in range(6):
        draw(tmp_path / "images" / f"{number}.png", number, caption=f"image {number}")
    config = make_config()
    prepare(config)
    dataset = Path(config.dataset)
    whole = state(dataset)
    assert (len(whole.rows), whole.duplicates, len(stored(dataset))) == (6, 0, 6 + 6 + 1)
    manifest = storage.read_json(str(dataset / "manifest.json"))
    storage.write_json(str(dataset / "manifest.json"), manifest | {"parts": 2 * manifest["parts"]})
    assert state(dataset).duplicates == 6
    storage.write_json(str(dataset / "manifest.json"), manifest)
    [shard] = dataset.glob("latents/*/*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    assert state(dataset).digest != whole.digest
