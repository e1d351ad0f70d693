"""What a preparation did, as a value and as a table for people."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from rich.console import Console
from rich.table import Table as Grid

from raytrain.config import Table
from raytrain.data.scan import Rejected
from raytrain.data.schema import BucketCount

SHOWN = 20


class PrepareReport(Table):
    """Counts of one preparation."""

    found: int
    """Picture files in the source."""
    kept: int
    """Live rows of the dataset."""
    encoded_pictures: int
    encoded_captions: int
    reused: int
    """Live rows for which nothing was encoded."""
    captioned: int
    """Captions written by the captioner in this run."""
    uncaptioned: int
    """Live rows without any words but the trigger."""
    rejected: Annotated[tuple[Rejected, ...], Field(strict=False)]
    buckets: dict[str, BucketCount]
    fingerprint: str
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    seconds: float


def show(report: PrepareReport, console: Console) -> None:
    """Print rows per bucket, what was encoded or reused, and the first rejected pictures with their reasons."""
    grid = Grid("bucket", "train", "held out", title=f"{report.kept} pictures ready in {report.seconds:.1f} s")
    for name, count in report.buckets.items():
        grid.add_row(name, str(count.train), str(count.held_out))
    console.print(grid)
    console.print(
        f"{report.found} found, {report.encoded_pictures} pictures and {report.encoded_captions} captions encoded, "
        f"{report.reused} rows reused, {report.captioned} captions written, {len(report.rejected)} rejected"
    )
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    if report.uncaptioned:
        console.print(
            f"{report.uncaptioned} pictures have no caption: put a .txt beside them or set data.captions.captioner",
            style="yellow",
        )
    if report.rejected:
        console.print(f"\n{len(report.rejected)} REJECTED, not in the dataset:", style="bold red")
        for item in report.rejected[:SHOWN]:
            console.print(f"  {item.path}: {item.reason}", style="red", markup=False)
        if len(report.rejected) > SHOWN:
            console.print(f"  ... and {len(report.rejected) - SHOWN} more in rejected.parquet", style="red")
