"""Start a stage's command, kill -9 a part of it at a moment, wait for what becomes of it,
run it again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.soak._nodes import ROOT, Nodes

KINDS = ("driver", "actor", "node")
PATIENCE = 900.0
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Run:
    """A command that ended; `begun` and `seconds` count from its start."""

    exit_code: int
    begun: float
    seconds: float
    victim: str | None = None


def kinds(kills: int, chance: random.Random) -> list[str]:
    """Return a kind for each kill, in random order, each kind as often as the others."""
    found: list[str] = []
    while len(found) < kills:
        found += chance.sample(KINDS, len(KINDS))
    return found[:kills]


def run(
    command: Sequence[str],
    log: Path,
    has_begun: Callable[[], bool],
    nodes: Nodes,
    strike: tuple[str, Callable[[float], bool], random.Random] | None = None,
) -> Run:
    """Run `python -m <command>` to its end; `strike`: what to kill, whether to
    (asked with the seconds since the stage began), and a chance.

    An actor that is not there yet is waited for. `victim` is None when the command ended first.
    Raises TimeoutError.
    """
    started, begun, victim = time.monotonic(), None, None
    with log.open("a") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=output, stderr=output
        )
        try:
            while child.poll() is None:
                now = time.monotonic()
                if begun is None and has_begun():
                    begun = now
                if strike and victim is None and begun is not None and strike[1](now - begun):
                    victim = _strike(strike[0], strike[2], child, nodes)
                if now - started > PATIENCE:
                    raise TimeoutError(
                        f"{' '.join(command)} did not end in {PATIENCE:.0f} s; see {log}"
                    )
                time.sleep(0.01)
        finally:
            child.kill()
            code = child.wait()
    ended = time.monotonic()
    return Run(code, (begun or ended) - started, ended - started, victim)


def _strike(
    kind: str, chance: random.Random, child: subprocess.Popen[bytes], nodes: Nodes
) -> str | None:
    if kind == "driver":
        child.kill()
        return f"process {child.pid}"
    if kind == "actor":
        return nodes.kill_worker(chance)
    name = nodes.kill_node(chance)
    nodes.mend()
    return name
