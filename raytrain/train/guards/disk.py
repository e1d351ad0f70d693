"""Whether the first checkpoint has room on the disk, known before the first step."""

from __future__ import annotations

import shutil

from raytrain import optimizers, storage
from raytrain.config import Config
from raytrain.errors import UserError


def checkpoint_bytes(config: Config, learning: int) -> int:
    """Estimate a checkpoint of so many weights that learn: themselves, the optimizer's state,
    their moving average."""
    train = config.train
    each = 4 if train.param_dtype == "fp32" else 2
    state = optimizers.facts(train.optimizer).bytes + (4 if train.ema else 0)
    return int(learning * (each + state))


def check(config: Config, learning: int) -> None:
    """Raise UserError where a local disk has less room than one checkpoint takes."""
    if not storage.is_local(config.output):
        return
    needed = checkpoint_bytes(config, learning)
    free = shutil.disk_usage(storage.parent(config.output)).free
    if free < needed:
        raise UserError(
            f"A checkpoint takes about {needed / 2**20:.0f} MiB, but the disk of output = "
            f"{config.output!r} has {free / 2**20:.0f} MiB free; the first one could not be "
            "written, and what was trained until then would be lost. Free some space, or choose "
            "another output."
        )
