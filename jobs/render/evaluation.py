"""The scores of an evaluation as a table for the terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from raytrain import storage
from raytrain.evaluate.charts import interval, number
from raytrain.evaluate.run_folder import EVALUATION, REPORT, differences

COLORS = {"better": "green", "worse": "red", "unclear": "dim"}


def show(output: str) -> Group:
    """Return the table and the verdict of `<output>/evaluation/report.json`."""
    report = storage.read_json(storage.join(output, EVALUATION, REPORT))
    table = Table(title=f"{report['checkpoint']} against the base model", title_justify="left")
    table.add_column("Score")
    for heading in ("Base", "Tuned", "Difference"):
        table.add_column(heading, justify="right")
    table.add_column("Verdict")
    for name, difference in differences(report).items():
        arrow = "↑" if difference.better == "higher" else "↓"
        table.add_row(
            f"{difference.label} {arrow}",
            *(
                _with_interval(row)
                for row in (report["base"][name], report["tuned"][name], asdict(difference))
            ),
            Text(difference.outcome, style=COLORS[difference.outcome]),
        )
    return Group(table, Text(report["headline"]), Text(report["verdict"]["sentence"]))


def _with_interval(row: dict[str, Any]) -> str:
    return f"[bold]{number(row['mean'])}[/]\n[dim]{interval(row)}[/]"
