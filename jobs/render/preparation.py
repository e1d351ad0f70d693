"""What a preparation did, as a table and lines."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid

from raytrain.data.item import UNUSED
from raytrain.data.pipeline.report import BROKEN, PrepareReport

FEW = 5
"""Files that nothing uses that are named; all are in the list of what is left out."""


def show(report: PrepareReport, console: Console | None = None) -> None:
    """Print rows per bucket, what was made or reused, and the first rejected images with their
    reasons."""
    console = console or Console()
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
    if report.effective:
        console.print(report.effective, markup=False, highlight=False, soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    if report.uncaptioned:
        console.print(
            f"{report.uncaptioned} {'row has' if report.uncaptioned == 1 else 'rows have'} no "
            "caption: put a .txt next to each image, name the "
            "column of captions text, or set data.captions.captioner",
            style="yellow",
        )
    if unused := report.rules.get(UNUSED):
        console.print(f"{unused} of the source's files or columns are used by nothing:")
        for item in report.unused[:FEW]:
            console.print(f"  {item.path}: {item.reason}", markup=False)
    left_out = {
        rule: count for rule, count in report.rules.items() if rule not in (BROKEN, UNUSED)
    }
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
