"""Kill a stage again and again: `make soak STAGE=prepare KILLS=20`, or `python -m tests.soak --stage prepare --kills 20`.

Prints a line for each kill and a table, writes `soak.json`, and ends with 1 unless every run ended well, nothing is there
twice or missing, all equals the undisturbed run, and no kill cost more than a shard's work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tests.soak
from tests.soak._kills import Kill

STAGES = sorted(m.name for m in pkgutil.iter_modules(tests.soak.__path__) if not m.name.startswith(("_", "test_")))
SHOWN = ("number", "kind", "victim", "moment", "exit_code", "seconds", "again_seconds", "arrays_before", "shards_lost",
         "duplicates", "missing", "equal_to_undisturbed")  # fmt: skip


def summary(stage: str, kills: Sequence[Kill]) -> dict[str, object]:
    """Return what `soak.json` holds."""
    return {
        "stage": stage,
        "kills": len(kills),
        "duplicates": sum(kill.duplicates for kill in kills),
        "missing": sum(kill.missing for kill in kills),
        "equal_to_undisturbed": all(kill.equal_to_undisturbed for kill in kills),
        "max_shards_lost": max(kill.shards_lost for kill in kills),
        "records": [asdict(kill) for kill in kills],
    }


def is_well(kills: Sequence[Kill]) -> bool:
    """Tell whether every kill ended as it must."""
    return all(
        kill.again_exit_code == 0
        and kill.equal_to_undisturbed
        and not kill.duplicates
        and not kill.missing
        and kill.shards_lost <= 1
        for kill in kills
    )


def main() -> int:
    """Run the stage that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, default="prepare")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=2000, help="how much work an undisturbed run has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="soak.json")
    options = parser.parse_args()
    console = Console()
    stage = importlib.import_module(f"tests.soak.{options.stage}")
    with tempfile.TemporaryDirectory(prefix="raytrain-soak-") as folder:
        kills = stage.soak(Path(folder), options.kills, options.pictures, options.seed,
                           lambda line: console.print(line, highlight=False, soft_wrap=True))  # fmt: skip
    table = Table(*SHOWN, title=f"{options.stage}, {options.pictures} pictures, seed {options.seed}")
    for kill in kills:
        table.add_row(*(str(getattr(kill, name)) for name in SHOWN))
    console.print(table)
    Path(options.output).write_text(json.dumps(summary(options.stage, kills), indent=2) + "\n")
    return 0 if is_well(kills) else 1


if __name__ == "__main__":
    sys.exit(main())
