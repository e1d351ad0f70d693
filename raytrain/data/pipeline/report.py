"""What a preparation did."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raytrain.data.item import Rejected
from raytrain.data.store.schema import BucketCount
from raytrain.peak import Peak
from raytrain.table import Table

SHOWN = 20
BROKEN = "broken"


class PrepareReport(Table):
    """Counts of one preparation."""

    found: int
    """Images the sources list, those refused at once included."""
    scanned: int
    """Images opened because nothing was known of them or they had changed."""
    kept: int
    """Rows of the dataset."""
    made: dict[str, int]
    """Arrays encoded now, by column: `latents`, `mask`, `control`, `text`, `tokens`."""
    annotated: dict[str, int]
    """Scores and captions made now, by the name of their maker."""
    reused: int
    """Arrays it needs that were on storage before."""
    uncaptioned: int
    """Rows without any words but the trigger."""
    cut: int = 0
    """Captions encoded now whose end was lost: they are longer than `model.max_tokens`."""
    rules: dict[str, int]
    """Rejected images by rule."""
    rejected: Annotated[tuple[Rejected, ...], Field(strict=False)]
    """The first of them; all are in `rejected_path`."""
    unused: Annotated[tuple[Rejected, ...], Field(strict=False)] = ()
    """The first files of the sources that nothing uses."""
    rejected_path: str
    buckets: dict[str, BucketCount]
    snapshot: int
    fingerprint: str
    peaks: dict[str, Peak] = Field({})
    """What a worker held at most by the end of each stage."""
    effective: str = ""
    """Lines: settings that were left open, where they are new in the run's folder."""
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    seconds: float

    @property
    def broken(self) -> int:
        """Images that could not be used at all."""
        return self.rules.get(BROKEN, 0)
