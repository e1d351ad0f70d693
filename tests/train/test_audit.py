"""An audit finds what a run was shown, and every broken promise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain import checkpoint, provenance, storage
from raytrain.checkpoint import Checkpoint
from raytrain.config import Config
from raytrain.data.loading.batch_sampler import BatchSampler, GlobalBatch
from raytrain.data.loading.read import Dataset
from raytrain.errors import UserError
from raytrain.train import worker
from raytrain.train.order import batch_sampler_of
from raytrain.train.record.audit import audit, config_of


def at_step(config: Config, step: int, **changed: Any) -> None:
    """Leave behind what a run has at a step."""
    manifest = Dataset.of(config).manifest
    provenance.record(config)
    state = {
        "step": step,
        "metrics": {},
        "config": config.values(),
        "dataset": manifest.fingerprint,
        "snapshot": manifest.number,
        **changed,
    }
    checkpoint.save(config.output, Checkpoint({}, {}, state), keep=1)


@pytest.fixture
def config(run_config: Callable[..., Config]) -> Config:
    made = run_config(train={"steps": None, "epochs": 3})
    return made.model_copy(update={"data": made.data.model_copy(update={"repeats": 2})})


def test_a_run_that_kept_its_promises(config: Config) -> None:
    dataset = Dataset.of(config)
    entries = sum(dataset.counts().values())
    batch_sampler = batch_sampler_of(config, dataset.counts())
    at_step(config, batch_sampler.total_steps // 2)
    half = audit(config)
    assert half.broken == ()
    assert half.epochs[0].shown == 2 * entries
    assert 0 < sum(one.shown for one in half.epochs) < 6 * entries
    at_step(config, batch_sampler.total_steps)
    found = audit(config_of(config.output))
    assert found.broken == ()
    whole = (2 * entries, 2 * entries, entries, 0)
    assert [(one.planned, one.shown, one.rows, one.wrong) for one in found.epochs] == [whole] * 3


@pytest.mark.parametrize("batch", [2, 4, 7])
def test_no_step_of_a_run_left_alone_breaks_a_promise(config: Config, batch: int) -> None:
    """A batch that closes an epoch is shown anywhere among the next one's."""
    train = config.train.model_copy(update={"global_batch": batch})
    config = config.model_copy(update={"train": train})
    for step in range(1, batch_sampler_of(config, Dataset.of(config).counts()).total_steps + 1):
        at_step(config, step)
        assert audit(config).broken == ()


def test_a_sample_log_is_compared_with_the_plan(run_config: Callable[..., Config]) -> None:
    config = run_config()
    worker.train(config)
    found = audit(config)
    assert found.broken == ()
    assert found.ranks == {0: 6 * 4}
    [*_, last] = sorted(Path(config.output, "sample_log").iterdir())
    table = pq.read_table(last)
    pq.write_table(table.slice(1), last)
    assert audit(config).broken == (
        "step 5: by their sample logs the workers have trained on 3 rows, not on the 4 that were "
        "planned, or on others",
    )
    others = pa.array([7] * len(table), pa.uint64())
    pq.write_table(table.set_column(table.schema.get_field_index("id"), "id", others), last)
    assert "step 5" in audit(config).broken[0]
    shutil.rmtree(last.parent)
    assert audit(config).ranks is None


def test_rows_shown_too_often_or_never(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    real = BatchSampler.at

    def wrong(self: BatchSampler, step: int) -> GlobalBatch:
        batch = real(self, step)
        rows = np.full_like(batch.rows, batch.rows[0]) if step == 1 else batch.rows
        return GlobalBatch(batch.step, batch.epoch, batch.bucket, rows, batch.occurrences)

    at_step(config, batch_sampler_of(config, Dataset.of(config).counts()).total_steps)
    monkeypatch.setattr(BatchSampler, "at", wrong)
    found = audit(config)
    assert found.epochs[0].wrong > 1
    assert found.broken[0].startswith("epoch 1: ")


def test_a_held_out_image_among_those_trained_on(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Dataset.index

    def leaking(self: Dataset, bucket: str, split: str = "train") -> Any:
        return (
            real(self, bucket, "train")
            if split == "held_out" and bucket == min(self.counts())
            else real(self, bucket, split)
        )

    at_step(config, 8)
    monkeypatch.setattr(Dataset, "index", leaking)
    assert any("held-out images were trained on" in text for text in audit(config).broken)


def test_files_that_contradict_each_other(config: Config) -> None:
    at_step(config, 5, dataset="f" * 64)
    assert "fingerprint ffffffffffff" in audit(config).broken[0]
    at_step(config, 10_000)
    assert any("the plan ends after" in text for text in audit(config).broken)
    at_step(config, 5)
    other = config.model_copy(update={"seed": 7})
    assert any("seed: 0 -> 7" in text for text in audit(other).broken)
    rows = '{"step": 1, "loss": 1.0}\n{"step": 1, "loss": 1.0}\n'
    storage.write_bytes(storage.join(config.output, "metrics.jsonl"), rows.encode())
    assert any("metrics.jsonl" in text for text in audit(config).broken)


def test_no_run(config: Config) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        audit(config)
    with pytest.raises(UserError, match="no run"):
        config_of(config.dataset)
    at_step(config, 5, snapshot=77)
    with pytest.raises(UserError, match="77"):
        audit(config)
