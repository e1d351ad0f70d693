"""Kill a stage again and again: `make soak STAGE=prepare KILLS=20`,
or `python -m tests.soak --stage prepare --kills 20`.

Prints a line for each kill and a table, writes `soak.json`, and ends with 1 unless every kill
ended as the stage promises.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tests.soak

STAGES = sorted(
    m.name
    for m in pkgutil.iter_modules(tests.soak.__path__)
    if not m.name.startswith(("_", "test_"))
)


def main() -> int:
    """Run the stage that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, default="prepare")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--images",
        type=int,
        help="how much work an undisturbed run has; each stage has its default",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="soak.json")
    options = parser.parse_args()
    console = Console()
    stage = importlib.import_module(f"tests.soak.{options.stage}")
    images = options.images or stage.IMAGES
    with tempfile.TemporaryDirectory(prefix="raytrain-soak-") as folder:
        kills = stage.soak(
            Path(folder),
            options.kills,
            images,
            options.seed,
            lambda line: console.print(line, highlight=False, soft_wrap=True),
        )
    table = Table(*stage.SHOWN, title=f"{options.stage}, {images} images, seed {options.seed}")
    for kill in kills:
        table.add_row(*(str(getattr(kill, name)) for name in stage.SHOWN))
    console.print(table)
    found = {"stage": options.stage, "kills": len(kills), **stage.summary(kills)}
    Path(options.output).write_text(
        json.dumps(found | {"records": [asdict(kill) for kill in kills]}, indent=2) + "\n"
    )
    console.print(json.dumps(found), soft_wrap=True)
    return 0 if stage.is_well(kills) else 1


if __name__ == "__main__":
    sys.exit(main())
