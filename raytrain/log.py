"""Where numbers and images go: `metrics.jsonl`, TensorBoard, wandb.

The console follows `metrics.jsonl`: progress.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytrain import storage
from raytrain.config import Config

if TYPE_CHECKING:
    from PIL.Image import Image

METRICS = "metrics.jsonl"


class MetricLog:
    """All sinks of one run.

    Rows of steps from `start` on are forgotten first, so a resumed run logs each step once.
    """

    def __init__(self, config: Config, start: int) -> None:
        self._uri = storage.join(config.output, METRICS)
        self._rows = [row for row in read_metrics(config.output) if row["step"] <= start]
        self._unsent: list[dict[str, Any]] = []
        self._stream = None
        if storage.is_local(self._uri):
            storage.write_bytes(self._uri, _lines(self._rows))
            self._stream = open(storage.resolve(self._uri)[1], "a", encoding="utf-8")  # noqa: SIM115
        self._board = (
            _tensorboard(config)
            if config.log.tensorboard and storage.is_local(config.output)
            else None
        )
        self._wandb = _wandb(config)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Write one row of numbers to the file at once, to the other sinks with the next `send`;
        rows may come late."""
        row = {"step": step, **values}
        self._rows.append(row)
        self._unsent.append(row)
        if self._stream is not None:
            self._stream.write(json.dumps(row) + "\n")
            self._stream.flush()

    def send(self) -> None:
        """Send what is new to TensorBoard and wandb: of the steps' own rows the last,
        with the mean of their losses."""
        steps = [row for row in self._unsent if "loss" in row]
        rows = [row for row in self._unsent if "loss" not in row]
        if steps:
            rows.append({**steps[-1], "loss": sum(row["loss"] for row in steps) / len(steps)})
        self._unsent.clear()
        for row in rows:
            if self._board is not None:
                for name in row.keys() - {"step"}:
                    self._board.add_scalar(name, row[name], row["step"])
            if self._wandb is not None:
                self._wandb.log(row)

    def image(self, step: int, name: str, image: Image) -> None:
        """Write one image to the sinks that show images; its file is the caller's."""
        if self._board is not None:
            import numpy as np

            self._board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(image), "step": step})

    def close(self) -> None:
        """Flush and close every sink."""
        self.send()
        if self._stream is not None:
            self._stream.close()
        else:
            storage.write_bytes(self._uri, _lines(self._rows))
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(output: str) -> list[dict[str, Any]]:
    """Return the rows of a run's `metrics.jsonl`, oldest first;
    a last line cut by a crash is left out."""
    uri = storage.join(output, METRICS)
    if not storage.exists(uri):
        return []
    rows = []
    for line in storage.read_bytes(uri).decode().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _tensorboard(config: Config) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(Path(config.output) / "tensorboard"))


def _wandb(config: Config) -> Any:
    if config.log.wandb == "off":
        return None
    import wandb

    run = wandb.init(
        project=config.log.project,
        name=storage.base_name(config.output),
        dir=config.output,
        mode=config.log.wandb,
        config=config.values(),
        settings=wandb.Settings(silent=True),
    )
    run.define_metric("step")
    run.define_metric("*", step_metric="step")  # wandb's own count refuses what comes late
    return run
