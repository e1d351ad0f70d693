"""An audit as a table and a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as Grid

if TYPE_CHECKING:
    from raytrain.train.record.audit import Audit


def show(found: Audit) -> RenderableType:
    """Return an audit as a table and a verdict."""
    grid = Grid("epoch", "entries of an epoch", "shown", "different entries", "not as promised")
    for one in found.epochs:
        grid.add_row(
            str(one.epoch + 1),
            f"{one.planned:,}",
            f"{one.shown:,}",
            f"{one.rows:,}",
            f"{one.wrong:,}",
        )
    verdict = [f"BROKEN: {escape(text)}" for text in found.broken] or [
        "As promised: each entry exactly once an epoch for each repeat, and nothing that is held "
        "out was trained on."
    ]
    if found.ranks is None:
        verdict.append(
            "The run has no sample log: this is its plan; whether its workers followed it is not "
            "checked."
        )
    else:
        rows = ", ".join(
            f"{rows:,} by worker {rank}" for rank, rows in sorted(found.ranks.items())
        )
        verdict.append(f"By their sample logs the workers have trained on these rows: {rows}.")
    numbers = ", ".join(map(str, found.snapshots))
    title = (
        f"{escape(found.output)}: {found.steps:,} of {found.total_steps:,} steps on snapshot"
        f"{'s' if len(found.snapshots) > 1 else ''} {numbers}"
    )
    return Group(title, grid, *verdict)
