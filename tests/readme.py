"""README's table of families and methods, from the registry:
`python -m tests.readme [--write]`."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

from raytrain import plugins

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- families and methods: written by `python -m tests.readme --write` -->"
END = "<!-- end of families and methods -->"


def table() -> str:
    """Return the table in Markdown: a row for each family, a column for each method."""
    methods = plugins.names("methods")
    rows = [["family", "is", *methods], ["---"] * 2 + [":-:"] * len(methods)]
    for name in plugins.names("families"):
        family = plugins.load("families", name)
        fits = [all(hasattr(family, verb) for verb in _needs(method)) for method in methods]
        rows.append([f"`{name}`", _title("families", name), *("✓" if fit else "" for fit in fits)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def written(text: str) -> str:
    """Return README's text with the table of today between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(
            f"README.md must hold the lines {BEGIN!r} and {END!r}; put them where the table "
            "belongs."
        )
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _needs(method: str) -> tuple[str, ...]:
    """Return the verbs that a method asks of a family beyond those that every family has."""
    found: tuple[str, ...] = getattr(plugins.load("methods", method), "NEEDS", ())
    return found


def _title(kind: str, name: str) -> str:
    """Return how a plug-in's docstring begins, up to the colon, without importing it."""
    spec = importlib.util.find_spec(plugins.module_name(kind, name))
    assert spec is not None
    assert spec.origin is not None
    documentation = (
        ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or name
    )
    return documentation.partition("\n")[0].partition(":")[0].rstrip(".")


def main() -> int:
    """Write the table into README, or tell whether it is the registry's."""
    text = README.read_text(encoding="utf-8")
    fresh = written(text)
    if "--write" in sys.argv[1:]:
        README.write_text(fresh, encoding="utf-8")
    elif fresh != text:
        print(
            "README.md's table is not the registry's; run: python -m tests.readme --write",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
