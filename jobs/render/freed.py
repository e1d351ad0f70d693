"""What a cleaning freed, as text."""

from __future__ import annotations

from rich.console import Group, RenderableType

from raytrain.data.tools.browse import size
from raytrain.data.tools.collect import Freed


def show(found: Freed) -> RenderableType:
    """Return what was freed, as text."""
    would = "would be " if found.dry_run else ""
    lines = []
    if found.snapshots:
        lines.append(f"{would}dropped: snapshot {', '.join(map(str, found.snapshots))}")
    lines += [f"{would}deleted: {count:,} of {kind}" for kind, count in found.files.items()]
    lines += [
        f"{would}put together: {count:,} parts of {name}" for name, count in found.merged.items()
    ]
    lines.append(
        f"{size(found.bytes)} {would}freed" if found.files else "There is nothing to delete."
    )
    if found.young:
        lines.append(
            f"{found.young:,} files that no snapshot names are younger than --older-than and "
            "stay: a preparation may have just written them."
        )
    return Group(*lines)
