"""Training while preparation still encodes: every epoch is a segment of its own, on the newest
snapshot that there is when it begins, until one is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from raytrain.data.loading.read import Dataset, check_dataset, open_manifest
from raytrain.data.store.schema import HELD_OUT, Manifest
from raytrain.train.order import Segment, at_snapshot, batch_sampler_of

if TYPE_CHECKING:
    from raytrain.train.run import Run


def first(manifest: Manifest, grows: bool) -> Segment:
    """Return the first segment of a run, whose dataset may grow."""
    return Segment(manifest.number, last=not grows or manifest.complete)


def move_on(run: Run) -> None:
    """Begin the run's next segment, on the newest snapshot; a collective.

    A run that no longer follows its dataset stays on the one it has. Raises UserError where the
    newest was made for another model.
    """
    before, manifest = run.segments[-1], run.dataset.manifest
    chosen = [(manifest.number, True)]
    if run.grows and run.is_main:
        newest = open_manifest(run.dataset.uri)
        chosen = [(newest.number, newest.complete)]
    if run.world_size > 1:
        dist.broadcast_object_list(chosen)
    number, last = chosen[0]
    epoch = before.epoch + 1
    if number != manifest.number:
        config = at_snapshot(run.config, number)
        check_dataset(config)
        run.dataset = Dataset.of(config, run.device)
    segment = Segment(number, run.step, epoch, last)
    run.batch_sampler = batch_sampler_of(run.config, run.dataset.counts(), segment)
    run.segments.append(segment)
    if run.is_main:
        _tell(run, manifest)


def _tell(run: Run, before: Manifest) -> None:
    """Say what the segment that begins is trained on, where that is not what was."""
    now, segment = run.dataset.manifest, run.segments[-1]
    if now.number == before.number and not segment.last:
        return
    rows = run.batch_sampler.rows_per_epoch
    held_out = sum(run.dataset.counts(HELD_OUT).values())
    until = "to the end" if segment.last else "which still grows"
    run.tell(
        f"Epoch {segment.epoch + 1} begins on snapshot {now.number}, {until}: {rows:,} images to "
        f"train on, {held_out:,} held out."
    )
