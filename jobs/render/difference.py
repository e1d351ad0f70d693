"""What differs between two snapshots, as text and tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as Grid

from raytrain.data.tools.browse import shown
from raytrain.data.tools.compare import Difference


def show(found: Difference) -> RenderableType:
    """Return a difference as text and tables."""
    lines: list[RenderableType] = [
        f"Snapshot {found.old} -> {found.new}: {found.added:,} rows added, {found.removed:,} "
        f"removed, {found.changed:,} changed, {found.same:,} the same"
    ]
    if found.kinds:
        lines.append(
            "changed: " + ", ".join(f"{kind} of {count:,}" for kind, count in found.kinds.items())
        )
    parts = {"+": (found.added, found.first_added), "-": (found.removed, found.first_removed)}
    for mark, (count, changes) in (parts | {"~": (found.changed, found.first_changed)}).items():
        for change in changes:
            kinds = f": {', '.join(change.kinds)}" if change.kinds else ""
            lines.append(escape(f"  {mark} {shown(change.path)} ({change.bucket}){kinds}"))
        if changes and count > len(changes):
            lines.append(f"  {mark} and {count - len(changes):,} more")
    if found.settings:
        grid = Grid("setting", str(found.old), str(found.new))
        for key, values in found.settings.items():
            grid.add_row(escape(key), *(escape(str(value)) for value in values))
        lines.append(grid)
    elif not found.added + found.removed + found.changed:
        lines.append("They hold the same, made with the same settings.")
    return Group(*lines)
