"""Kill training at random steps: each time it ends, by itself or run again,
with the rows and losses of a run left alone.

Two workers on the two nodes of a local cluster beside its head. Killed are in turn the command, a
worker, and a whole node, each in a run of its own; the run's rows and losses are compared with the
undisturbed one's, bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.log import read_metrics
from tests.soak import _kills, _training
from tests.soak._nodes import WORKERS, Nodes, local_nodes

IMAGES = 60
STEPS = 60
SHOWN = ("number", "kind", "victim", "step", "exit_code", "seconds", "again_exit_code",
         "again_seconds", "equal_ids", "max_loss_difference")  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """What one kill did, and what the run came to in the end."""

    number: int
    kind: str
    victim: str
    step: int
    """Steps done when it was struck."""
    exit_code: int
    """Of the command that was disturbed."""
    seconds: float
    again_exit_code: int
    """Of the same command, run again where the first did not end well; 0 where it did."""
    again_seconds: float
    equal_ids: bool
    max_loss_difference: float


def soak(folder: Path, kills: int, size: int, seed: int, say: Callable[[str], None]) -> list[Kill]:
    """Train undisturbed, then kill as many runs as asked; return what each came to."""
    chance = random.Random(seed)
    _training.images(folder, size, seed)
    log = folder / "output.log"
    with local_nodes() as nodes:
        undisturbed = _config(folder, "undisturbed", nodes)
        for job in ("prepare", "train"):
            calm = _kills.run(
                [f"jobs.{job}", _file(folder, undisturbed)], log, lambda: False, nodes
            )
            if calm.exit_code:
                raise RuntimeError(
                    f"the undisturbed {job} ended with {calm.exit_code}:\n{log.read_text()}"
                )
        say(f"undisturbed: {_steps(undisturbed)} steps in {calm.seconds:.1f} s")
        found: list[Kill] = []
        for number, kind in enumerate(_kills.kinds(kills, chance), 1):
            found.append(_kill(folder, number, kind, chance, nodes, undisturbed, log))
            say(_line(found[-1]))
    return found


def summary(kills: Sequence[Kill]) -> dict[str, object]:
    """Return what was promised, over all kills."""
    return {
        "resumed": sum(kill.again_exit_code == 0 for kill in kills),
        "equal_ids": all(kill.equal_ids for kill in kills),
        "max_loss_difference": max(kill.max_loss_difference for kill in kills),
    }


def is_well(kills: Sequence[Kill]) -> bool:
    """Tell whether every kill ended as it must."""
    return all(
        kill.again_exit_code == 0 and kill.equal_ids and kill.max_loss_difference == 0
        for kill in kills
    )


def _kill(
    folder: Path,
    number: int,
    kind: str,
    chance: random.Random,
    nodes: Nodes,
    undisturbed: Config,
    log: Path,
) -> Kill:
    config = _config(folder, f"kill-{number}", nodes)
    command = ["jobs.train", _file(folder, config)]
    moment, struck_at = chance.randrange(1, STEPS), 0

    def due(_: float) -> bool:
        nonlocal struck_at
        struck_at = _steps(config)
        return struck_at >= moment

    struck = _kills.run(command, log, lambda: _steps(config) > 0, nodes, (kind, due, chance))
    again = _kills.run(command, log, lambda: False, nodes) if struck.exit_code else None
    if struck.victim is None or (again and again.exit_code):
        codes = f"{struck.exit_code}, run again with {again.exit_code if again else None}"
        tail = log.read_text().splitlines()[-40:]
        raise RuntimeError(
            "\n".join([f"after a kill of {struck.victim} it ended with {codes}:", *tail])
        )
    compared = _training.difference(config, undisturbed)
    return Kill(
        number=number,
        kind=kind,
        victim=struck.victim,
        step=struck_at,
        exit_code=struck.exit_code,
        seconds=round(struck.seconds, 1),
        again_exit_code=again.exit_code if again else 0,
        again_seconds=round(again.seconds, 1) if again else 0.0,
        equal_ids=compared.equal_ids,
        max_loss_difference=compared.loss,
    )


def _config(folder: Path, name: str, nodes: Nodes) -> Config:
    return _training.config(
        folder,
        name,
        cluster={"address": nodes.address},
        train={
            "steps": STEPS,
            "global_batch": 4,
            "workers": WORKERS,
            "checkpoint_every": 5,
            "held_out_every": 0,
        },
    )


def _file(folder: Path, config: Config) -> str:
    file = folder / f"{Path(config.output).name}.toml"
    file.write_text(to_toml(config))
    return str(file)


def _steps(config: Config) -> int:
    return sum("loss" in row for row in read_metrics(config.output))


def _line(kill: Kill) -> str:
    again = f", again {kill.again_seconds} s with {kill.again_exit_code}" if kill.exit_code else ""
    return (
        f"kill {kill.number}: {kill.kind} ({kill.victim}) after step {kill.step}, {kill.seconds} "
        f"s, exit {kill.exit_code}{again}; {'same rows' if kill.equal_ids else 'OTHER ROWS'}, "
        f"losses differ by {kill.max_loss_difference:g}"
    )
