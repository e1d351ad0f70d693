"""Where numbers and images go: `metrics.jsonl`, TensorBoard, wandb, Prometheus.

The console follows `metrics.jsonl`: progress.py. Where the output is an object store, the files
are written to a folder of this machine, which is uploaded as it grows.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytrain import storage
from raytrain.config import Config
from raytrain.peak import peak
from raytrain.telemetry import Telemetry
from raytrain.upload import Upload

if TYPE_CHECKING:
    from PIL.Image import Image

METRICS = "metrics.jsonl"
MEMORY = "raytrain_train_memory_peak_bytes"


class MetricLog:
    """All sinks of one run.

    Rows of steps from `start` on are forgotten first, so a resumed run logs each step once.
    """

    def __init__(
        self, config: Config, start: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        rows = [row for row in read_metrics(config.output) if row["step"] <= start]
        self._unsent: list[dict[str, Any]] = []
        self._scratch, self._upload = None, None
        folder = storage.resolve(config.output)[1]
        if not storage.is_local(config.output):
            self._scratch = tempfile.TemporaryDirectory(prefix="raytrain-log-")
            folder = self._scratch.name
            self._upload = Upload(folder, config.output, now)
        path = str(Path(folder, METRICS))
        storage.write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = _tensorboard(folder) if config.log.tensorboard else None
        self._wandb = _wandb(config, folder)
        self._telemetry = Telemetry(config, now)
        self.flush()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Write one row of numbers to the file at once, to the other sinks with the next `send`;
        rows may come late."""
        row = {"step": step, **values}
        self._unsent.append(row)
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()
        self._turn()

    def send(self) -> None:
        """Send what is new to TensorBoard, wandb and Prometheus: of the steps' own rows the last,
        with the mean of their losses."""
        steps = [row for row in self._unsent if "loss" in row]
        rows = [row for row in self._unsent if "loss" not in row]
        if steps:
            rows.append({**steps[-1], "loss": sum(row["loss"] for row in steps) / len(steps)})
        self._unsent.clear()
        for row in rows:
            self._telemetry.keep_row(row)
            if self._board is not None:
                for name in row.keys() - {"step"}:
                    self._board.add_scalar(name, row[name], row["step"])
            if self._wandb is not None:
                self._wandb.log(row)
        self._turn()

    def image(self, step: int, name: str, image: Image) -> None:
        """Write one image to the sinks that show images; its file is the caller's."""
        if self._board is not None:
            import numpy as np

            self._board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(image), "step": step})

    def flush(self) -> None:
        """Bring to an object store what was written; a local output has it already."""
        if self._upload is not None:
            if self._board is not None:
                self._board.flush()
            self._upload.copy()

    def close(self) -> None:
        """Flush and close every sink."""
        self.send()
        self._telemetry.write()
        self._stream.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
        self.flush()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _turn(self) -> None:
        """Give what is new to an object store and to Prometheus, where it is time."""
        if self._upload is not None and self._upload.due():
            self.flush()
        if self._telemetry.due():
            held = peak()
            self._telemetry.keep(MEMORY, held.host * 2**20, device="host")
            if held.device:
                self._telemetry.keep(MEMORY, held.device * 2**20, device="gpu")
            self._telemetry.write()


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


def _tensorboard(folder: str) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(Path(folder, "tensorboard")))


def _wandb(config: Config, folder: str) -> Any:
    if config.log.wandb == "off":
        return None
    import wandb

    run = wandb.init(
        project=config.log.project,
        name=storage.base_name(config.output),
        dir=folder,
        mode=config.log.wandb,
        config=config.values(),
        settings=wandb.Settings(silent=True),
    )
    run.define_metric("step")
    run.define_metric("*", step_metric="step")  # wandb's own count refuses what comes late
    return run
