"""What a step saw whose loss or gradient is no number any more, written down before the run stops.

<output>/diverged/step-00000012-0.json            ids, occurrences, bucket, learning rate and
                                                  losses of a worker's rows
                                 .safetensors     their columns and draws
"""

from __future__ import annotations

import math
import os
import tempfile
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from raytrain import checkpoint, storage
from raytrain.errors import Diverged

if TYPE_CHECKING:
    from raytrain.batch import Columns
    from raytrain.data.loading.loader import Step
    from raytrain.train.run import Run

FOLDER = "diverged"


def diverged(
    run: Run, step: Step, draws: Columns, rate: float, loss: float, norm: float
) -> Diverged:
    """Write what the step saw and return the error to raise; every worker must call it,
    and no weight may have changed."""
    path = storage.join(run.config.output, FOLDER, f"step-{step.number + 1:08d}-{run.rank}")
    losses = _losses(run, step, draws)
    bad = [
        identity
        for identity, value in zip(step.batch.ids, losses, strict=True)
        if not math.isfinite(value)
    ]
    facts = {
        "step": step.number + 1,
        "learning_rate": rate,
        "bucket": step.bucket,
        "loss": loss,
        "gradient_norm": norm,
        "ids": step.batch.ids,
        "occurrences": step.batch.occurrences,
        "losses": losses,
    }
    tensors = {
        **{f"draw.{name}": values for name, values in draws.items()},
        **{f"column.{name}": values for name, values in step.batch.columns.items()},
    }
    storage.write_json(f"{path}.json", {name: _plain(value) for name, value in facts.items()})
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "seen.safetensors")
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)
        with open(file, "rb") as stream:
            storage.write_bytes(f"{path}.safetensors", stream.read())
    found = checkpoint.listing(run.config.output)
    kept = (
        f"The last checkpoint, {found[-1]}, is from before it."
        if found
        else "There is no checkpoint yet."
    )
    what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient's norm became {norm}"
    rows = f" (images {', '.join(sorted({identity[:12] for identity in bad}))})" if bad else ""
    return Diverged(
        f"The {what} at step {step.number + 1} (learning rate {rate:.3g}, bucket "
        f"{step.bucket}){rows}; training stopped before the optimizer used it. What it saw is in "
        f"{path}.json and .safetensors. {kept} Lower train.learning_rate, add train.warmup or use "
        'precision = "fp32".'
    )


def _losses(run: Run, step: Step, draws: Columns) -> list[float]:
    found: list[float] = []
    with torch.no_grad(), run.autocast():
        for batch, draw in zip(
            step.batch.split(run.micro_batch), draws.split(run.micro_batch), strict=True
        ):
            found += run.engine.model(batch.to(run.device), draw.to(run.device)).tolist()
    return found


def _plain(value: object) -> object:
    """JSON knows no NaN: it becomes text."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
