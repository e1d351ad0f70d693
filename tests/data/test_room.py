"""A dataset that its disk has no room for is refused before anything is encoded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs import plan, prepare, rehearse
from raytrain import families, plugins, storage
from raytrain.config import Config
from raytrain.config.file import parse, to_toml
from raytrain.data import columns
from raytrain.data.loading.read import check_dataset
from raytrain.data.pipeline import encode, room
from tests.commands.test_bad_input import refused
from tests.conftest import Here, workers_here
from tests.data.conftest import draw

Make = Callable[..., Config]
MIXED = {"buckets": {"resolutions": [64, 96], "step": 16}, "augment": {"flip": True, "colors": 1},
         "masks": {"kind": "alpha"}, "captions": {"variants": 2},
         "encode": {"shard_rows": 64}}  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> None:
    """Draw images of several sizes and shapes, none of them that of the estimate."""
    sizes = ((128, 128), (150, 100), (100, 170), (110, 140))
    for number in range(12):
        draw(tmp_path / "images" / f"{number}.png", number, sizes[number % 4],
             f"image {number}, of noise, colored")  # fmt: skip


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Config], list[str]]:
    """Return a function that writes a config to a file; commands work in this process."""

    @contextmanager
    def workers(*_: Any, **__: Any) -> Iterator[Here]:
        yield Here()

    for job in (prepare, rehearse):
        monkeypatch.setattr(job, "workers", workers)

    def write(config: Config) -> list[str]:
        (tmp_path / "config.toml").write_text(to_toml(config))
        return [str(tmp_path / "config.toml")]

    return write


def leave_free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=count))


@pytest.mark.parametrize("cache", [True, False])
def test_the_estimate_of_a_plan_is_close_to_what_is_written(
    cache: bool, photos: None, make_config: Make, capsys: pytest.CaptureFixture[str],
    command: Callable[[Config], list[str]],
) -> None:  # fmt: skip
    config = make_config(**MIXED, cache=cache)
    estimated = room.estimate(config, 12)
    assert plan.main(command(config)) == 0
    [said] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("disk")]
    assert f"about {sum(estimated.values()) / 2**20:.1f} MiB" in said
    with workers_here():
        from raytrain.data.prepare import prepare as made

        made(config)
    assert {*estimated} == {*columns.stored(config)}
    for name, count in estimated.items():
        shards = storage.files(storage.join(config.dataset, name))
        arrays = sum(shard.bytes for shard in shards)
        overhead = 2000 * len(shards)  # parquet's own, which only so small a dataset notices
        assert arrays / room.FACTOR - overhead < count < arrays * room.FACTOR, name
    assert plan.main(command(config)) == 0
    assert "preparing writes" not in capsys.readouterr().out


def test_the_last_byte_of_what_is_missing_decides(
    photos: None, make_config: Make, capsys: pytest.CaptureFixture[str],
    command: Callable[[Config], list[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = make_config(held_out=0.0)
    names = ("latents", "text")
    width = dict.fromkeys(names, 0)
    monkeypatch.setattr(room, "KEY", 0)
    monkeypatch.setattr(room, "LONGEST", 2**40)
    given: list[Any] = []
    check = room.check_missing
    monkeypatch.setattr(room, "check_missing", lambda *each: (given.append(each[2]), check(*each)))
    began: list[int] = []
    monkeypatch.setattr(encode.ShardEncoder, "__init__", lambda *_, **__: began.append(1))
    leave_free(monkeypatch, 0)
    refused(prepare.main, command(config), capsys, "24 arrays", "data.dataset", "0 MiB free",
            "Free some space")  # fmt: skip
    assert not began
    assert {name: sum(given[0][name].values()) for name in names} == {"latents": 12, "text": 12}
    monkeypatch.undo()

    with workers_here():
        from raytrain.data.prepare import prepare as made

        made(config)
    manifest = check_dataset(config)
    arrays = {name: manifest.columns[name].arrays for name in names}
    for name in names:
        width[name] = sum(
            count * (sum(array.bytes_in(bucket or "64x64") for array in arrays[name].values()))
            for bucket, count in given[0][name].items()
        )
    needed = sum(width.values())
    fresh = parse(config.values() | {"output": f"{config.output}-2"})
    monkeypatch.setattr(room, "KEY", 0)
    monkeypatch.setattr(room, "LONGEST", 2**40)
    known = room.Fingerprint.of(fresh)
    leave_free(monkeypatch, needed)
    room.check_missing(fresh, known, given[0])
    leave_free(monkeypatch, needed - 1)
    with pytest.raises(room.UserError, match=r"24 arrays that are missing take about \d+ MiB"):
        room.check_missing(fresh, known, given[0])


def test_a_plan_and_a_rehearsal_refuse_what_cannot_fit(
    photos: None, make_config: Make, capsys: pytest.CaptureFixture[str],
    command: Callable[[Config], list[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = make_config(**MIXED)
    least = int(sum(room.estimate(config, 12).values()) / room.FACTOR)
    leave_free(monkeypatch, least - 1)
    told = "What 12 images are encoded to takes about"
    refused(plan.main, command(config), capsys, told, "would stop in the middle")
    refused(rehearse.main, command(config), capsys, "phase 'check'", told)
    leave_free(monkeypatch, least)
    room.check_estimate(config)


@pytest.mark.parametrize("name", plugins.names("families"))
def test_what_a_caption_takes_is_known_without_weights(
    name: str, make_config: Make, tmp_path: Path
) -> None:
    family = families.load(name)
    family.tiny(str(tmp_path / "model"))
    model = {"family": name, "path": str(tmp_path / "model")}
    config = parse(make_config().values() | {"model": model})
    for column in ("text", "tokens"):
        kind: Any = columns.load(column)
        encoder = kind.load(config, family, torch.device("cpu"), torch.float32)
        stored = {
            each: (str(array.dtype), array.shape[1:])
            for each, array in encoder.encode(["a caption"]).items()
        }
        said = kind.arrays(config, family)
        assert {each: (array.dtype, array.shape) for each, array in said.items()} == stored
