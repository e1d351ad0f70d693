"""What became of another trainer's keys, as text."""

from __future__ import annotations

from raytrain.translate import KINDS, Entry, Translation


def show(made: Translation) -> str:
    """Return the report: all keys by kind, and how many there are of each."""
    lines: list[str] = []
    for kind in KINDS:
        found = [entry for entry in made.entries if entry.kind == kind]
        lines += [f"{kind}:", *(f"  {_line(entry)}" for entry in found), ""] if found else []
    counts = {kind: sum(entry.kind == kind for entry in made.entries) for kind in KINDS}
    return "\n".join([*lines, ", ".join(f"{count} {kind}" for kind, count in counts.items())])


def _line(entry: Entry) -> str:
    theirs = f"{entry.key} = {entry.value}" if entry.key else "always"
    ours = ", ".join(f"{key} = {value}" for key, value in entry.settings.items())
    words = f"({entry.words})" if entry.words and ours else entry.words
    return " ".join(filter(None, (theirs, "->", ours, words))) if ours or words else theirs
