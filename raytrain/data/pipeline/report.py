"""What a preparation did, as a value and as a table for people."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from rich.console import Console
from rich.table import Table as Grid

from raytrain.data.item import Rejected
from raytrain.data.store.schema import BucketCount
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
    rejected_path: str
    buckets: dict[str, BucketCount]
    snapshot: int
    fingerprint: str
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    seconds: float

    @property
    def broken(self) -> int:
        """Images that could not be used at all."""
        return self.rules.get(BROKEN, 0)


def show(report: PrepareReport, console: Console) -> None:
    """Print rows per bucket, what was made or reused, and the first rejected images with their
    reasons."""
    title = f"{report.kept} rows ready in {report.seconds:.1f} s, snapshot {report.snapshot}"
    grid = Grid("bucket", "train", "held out", title=title)
    for name, count in report.buckets.items():
        grid.add_row(name, str(count.train), str(count.held_out))
    console.print(grid)
    made = ", ".join(
        f"{count} {name} {verb}"
        for counts, verb in ((report.annotated, "annotations"), (report.made, "encoded"))
        for name, count in counts.items()
    )
    console.print(
        f"{report.found} found, {report.scanned} opened, {made or 'nothing encoded'}, "
        f"{report.reused} reused"
    )
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    if report.uncaptioned:
        console.print(
            f"{report.uncaptioned} rows have no caption: put a .txt next to each image or set "
            "data.captions.captioner",
            style="yellow",
        )
    left_out = {rule: count for rule, count in report.rules.items() if rule != BROKEN}
    for rule, number in left_out.items():
        console.print(f"{number} left out by rule {rule!r}", style="yellow")
    if report.broken:
        console.print(f"\n{report.broken} REJECTED, not in the dataset:", style="bold red")
        for item in report.rejected:
            console.print(
                f"  {item.path!r}: {item.reason}"
                if "\n" in item.path
                else f"  {item.path}: {item.reason}",
                style="red",
                markup=False,
            )
    if report.rules:
        console.print(f"All that is left out, with its reason: {report.rejected_path}")
