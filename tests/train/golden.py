"""The losses of four short runs, kept in `golden.json`: a change that only moves code keeps every
bit of them.

    python -m tests.train.golden             # compare, and say whether the bits are equal
    python -m tests.train.golden --write     # keep today's

Other processors compute other last bits, so the test beside compares within a tolerance and this
command exactly.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("golden.json")
CASES = [(family, method) for family in ("sd15", "sdxl") for method in ("lora", "full")]
STEPS = 20


def losses(family: str, method: str, root: Path) -> list[float]:
    """Train 20 steps in fp32 on one thread and return the loss of each;
    `root` keeps a family's model and dataset."""
    import torch

    from raytrain import families
    from raytrain.config.file import parse
    from raytrain.data.prepare import prepare
    from raytrain.log import read_metrics
    from raytrain.toy.draw import draw_folder
    from raytrain.train.worker import train
    from tests.conftest import workers_here

    torch.set_num_threads(1)
    model = root / family / "model"
    if not model.exists():
        families.load(family).tiny(str(model))
        draw_folder(root / family / "images", 24, style="neon", seed=3)
    tables: dict[str, Any] = {
        "output": str(root / family / method),
        "model": {"family": family, "path": str(model)},
        "method": {"name": "lora", "rank": 4} if method == "lora" else {"name": method},
        "data": {
            "source": str(root / family / "images"),
            "dataset": str(root / family / "dataset"),
            "held_out": 0.2,
            "buckets": {"resolution": 64, "step": 16, "sizes": [[64, 64], [80, 48], [48, 80]]},
        },
        "objective": {"noise_offset": 0.05, "caption_dropout": 0.2, "min_snr_gamma": 5.0},
        "train": {
            "steps": STEPS,
            "global_batch": 4,
            "micro_batch": 2,
            "learning_rate": 1e-3,
            "warmup": 3,
            "held_out_every": 10,
        },
        "sample": {"steps": 1, "max_prompts": 1},
        "evaluate": {"timesteps": 2},
        "log": {"tensorboard": False},
    }
    config = parse(tables)
    with workers_here():
        prepare(config)
    train(config)
    rows = read_metrics(config.output)
    held_out = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    return [*(row["loss"] for row in rows if "loss" in row), *held_out]


def main() -> None:
    """Compare or write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    with tempfile.TemporaryDirectory() as folder:
        found = {
            f"{family} {method}": losses(family, method, Path(folder)) for family, method in CASES
        }
    if parser.parse_args().write:
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        return
    kept = json.loads(FILE.read_text())
    for name, values in found.items():
        worst = max(abs(one - two) for one, two in zip(values, kept[name], strict=True))
        print(
            f"{name}: {'equal bits' if values == kept[name] else f'differs by up to {worst:.3g}'}"
        )
    raise SystemExit(found != kept)


if __name__ == "__main__":
    main()
