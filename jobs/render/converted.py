"""What a conversion wrote, and what the format has no place for."""

from __future__ import annotations

from rich.console import Console

from raytrain.data.tools.convert import Converted

WORDS = {"mask": "masks", "control": "control images", "repeats": "repeats", "weight": "weights",
         "regularization": "marks of regularization", "prefix": "prefixes", "suffix": "suffixes",
         "caption_settings": "caption rules of sd-scripts"}  # fmt: skip


def show(done: Converted, to: str, console: Console | None = None) -> None:
    """Print what was written, what was lost and the first images that were left out."""
    console = console or Console()
    console.print(
        f"{done.captions:,} captions of {done.images:,} images as {to} in {done.folder}",
        markup=False,
    )
    for name, count in done.lost.items():
        console.print(
            f"note: the {WORDS[name]} of {count:,} images are not written: {to} has no place for "
            "them",
            style="yellow",
            markup=False,
        )
    if done.rejected:
        console.print(f"{done.rejected:,} LEFT OUT:", style="bold red")
        for item in done.first:
            console.print(f"  {item.path}: {item.reason}", style="red", markup=False)
