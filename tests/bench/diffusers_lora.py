"""From images to a saved LoRA, ours against diffusers' `train_text_to_image_lora.py`,
on one machine:

    git clone --depth 1 https://github.com/huggingface/diffusers python -m venv lean &&
    lean/bin/pip install torch torchvision -r diffusers/examples/text_to_image/requirements.txt
    diffusers python -m tests.bench.diffusers_lora --python lean/bin/python \\
        --script diffusers/examples/text_to_image/train_text_to_image_lora.py

Both get the same folder (an imagefolder with `metadata.jsonl`), base model, resolution, center
cut, batch, epochs, rank, learning rate and number of threads, and one process that trains, without
validation images (ours always draws its own at the start and at the end: one image of one step
here). Ours is what a user types, `raytrain run`: images prepared, trained on, weights exported.
Beside wall time stands processor time, which other work on the machine disturbs less.

Where the script's Python cannot import torchvision, it runs over `stand_in`, and the output says
so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from raytrain.config.file import parse, to_toml
from raytrain.toy import SD15
from raytrain.toy.draw import draw_folder
from tests.bench import stand_in
from tests.bench.__main__ import machine
from tests.bench.first_step import FIRST_STEP, command_of, files, watch

LORA_FILE = "pytorch_lora_weights.safetensors"
Figures = dict[str, float]


def main() -> None:
    """Measure both in turn and print where the time went."""
    options = arguments()
    torchvision = _imports_torchvision(options.python)
    with tempfile.TemporaryDirectory(prefix="raytrain-diffusers-") as folder:
        images = draw_images(Path(folder) / "images", options.images)
        pairs = []
        for number in range(options.repeats):
            root = Path(folder) / str(number)
            root.mkdir()
            pairs.append((ours(root, images, options), theirs(root, images, options, torchvision)))
            check_same(root / "run/export" / LORA_FILE, root / "script" / LORA_FILE)
    show(pairs, options, torchvision)
    Path(options.output).write_text(
        json.dumps([{"ours": a, "script": b} for a, b in pairs], indent=2) + "\n"
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.diffusers_lora", description=__doc__
    )
    parser.add_argument(
        "--script",
        required=True,
        help="diffusers' examples/text_to_image/train_text_to_image_lora.py",
    )
    parser.add_argument(
        "--python", default=sys.executable, help="of an environment with the script's requirements"
    )
    parser.add_argument(
        "--model", default=str(SD15), help="folder of an SD 1.5 in diffusers layout"
    )
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", default="diffusers_lora.json")
    options = parser.parse_args()
    if options.images % options.batch:
        parser.error(
            "--images must be a multiple of --batch: the script's last batch of an epoch would be "
            "smaller"
        )
    return options


def draw_images(folder: Path, count: int) -> Path:
    """Draw an imagefolder: images and `metadata.jsonl`."""
    draw_folder(folder, count, style="neon", seed=0)
    rows = []
    for caption in sorted(folder.glob("*.txt")):
        rows.append(
            {"file_name": caption.with_suffix(".png").name, "text": caption.read_text().strip()}
        )
        caption.unlink()
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def ours(root: Path, images: Path, options: argparse.Namespace) -> Figures:
    """Prepare, train and export with our commands; returns seconds by part."""
    side = options.resolution
    config = parse({
        "output": str(root / "run"),
        "model": {"path": options.model},
        "method": {"name": "lora", "rank": options.rank, "init": "gaussian"},
        "data": {
            "source": str(images),
            "held_out": 0.0,
            "buckets": {"resolution": side, "step": 8, "sizes": [[side, side]]},
            "encode": {"batch": options.batch, "cpus_per_worker": options.threads},
        },
        "train": {
            "epochs": options.epochs,
            "global_batch": options.batch,
            "learning_rate": options.learning_rate,
            "cpus_per_worker": options.threads,
        },
        "sample": {"max_prompts": 1, "steps": 1},
        "export": {"formats": ["diffusers"], "precision": "fp32"},
        "cluster": {"num_cpus": options.threads},
    })  # fmt: skip
    path = root / "config.toml"
    path.write_text(to_toml(config))
    seen = watch(
        command_of("run", path),
        lambda printed: _our_marks(printed, config.output),
        each_process=False,
    )
    preparing = float(re.search(r"ready in ([\d.]+) s", seen.printed)[1])  # type: ignore[index]
    return {
        "start": seen.marks["prepared"] - preparing,
        "images listed and encoded": preparing,
        "until the first step": seen.marks[FIRST_STEP] - seen.marks["prepared"],
        "the other steps": seen.marks["train.json"] - seen.marks[FIRST_STEP],
        "export, end": seen.seconds - seen.marks["train.json"],
        "all": seen.seconds,
        "processor time": seen.processor,
    }


def theirs(root: Path, images: Path, options: argparse.Namespace, torchvision: bool) -> Figures:
    """Run the script; returns seconds by part."""
    output = root / "script"
    command = [
        options.python, *([] if torchvision else [stand_in.__file__]), options.script,
        "--pretrained_model_name_or_path", options.model, "--train_data_dir", str(images),
        "--resolution", str(options.resolution), "--center_crop", "--train_batch_size",
        str(options.batch), "--num_train_epochs", str(options.epochs), "--learning_rate",
        str(options.learning_rate), "--lr_warmup_steps", "0", "--rank", str(options.rank),
        "--seed", "0", "--checkpointing_steps", str(10**9), "--output_dir", str(output),
    ]  # fmt: skip
    environment = {
        "HF_HOME": str(
            root / "cache"
        ),  # a folder it has not seen: its own reading of the images is part of its work
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(options.threads),
        "PYTHONPATH": "",
    }
    seen = watch(
        command, lambda printed: _script_marks(printed, options), environment, each_process=False
    )
    return {
        "start, images listed": seen.marks["training"],
        "steps, each with its images": seen.marks["steps done"] - seen.marks["training"],
        "ending": seen.seconds - seen.marks["steps done"],
        "all": seen.seconds,
        "processor time": seen.processor,
    }


def check_same(one: Path, other: Path) -> None:
    """Raise unless two LoRA files hold tensors of the same names and shapes:
    the same work was done."""
    difference = sorted(_shapes(one).items() ^ _shapes(other).items())
    if difference:
        raise RuntimeError(
            f"{one} and {other} are not LoRAs of one shape: {len(difference)} differ, as "
            f"{difference[0]}"
        )


def show(
    pairs: list[tuple[Figures, Figures]], options: argparse.Namespace, torchvision: bool
) -> None:
    """Print medians and the ratio."""
    steps = options.epochs * options.images // options.batch
    sizes = f"{options.images} images, {options.resolution} px, {steps} steps of {options.batch}"
    table = Table(
        "seconds",
        "ours",
        "script",
        title=f"{sizes}, {options.threads} threads, median of {options.repeats}",
    )
    for side in (0, 1):
        for name in pairs[0][side]:
            if name not in ("all", "processor time"):
                value = f"{statistics.median(pair[side][name] for pair in pairs):.1f}"
                table.add_row(name, *(("", value) if side else (value, "")))
    for name in ("all", "processor time"):
        values = [statistics.median(pair[side][name] for pair in pairs) for side in (0, 1)]
        table.add_row(name, *(f"{value:.1f}" for value in values), style="bold")
    console = Console()
    console.print(table)
    for name in ("all", "processor time"):
        ratio = statistics.median(pair[1][name] / pair[0][name] for pair in pairs)
        console.print(f"script / ours, {name}: {ratio:.2f}")
    console.print(machine())
    if not torchvision:
        console.print(
            "torchvision cannot be imported here: the script ran over a stand-in of its "
            "transforms, with Pillow"
        )


def _our_marks(printed: str, output: str) -> Iterator[str]:
    if "ready in" in printed:
        yield "prepared"
        yield from files(output)


def _script_marks(printed: str, options: argparse.Namespace) -> Iterator[str]:
    steps = options.epochs * options.images // options.batch
    if "Running training" in printed:
        yield "training"
    if f"{steps}/{steps} [" in printed:
        yield "steps done"


def _imports_torchvision(python: str) -> bool:
    command = [python, "-c", "from torchvision import transforms"]
    return not subprocess.run(command, capture_output=True, check=False).returncode


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, "pt") as file:
        names = {
            name: name.replace("lora.down", "lora_A").replace("lora.up", "lora_B")
            for name in file.keys()  # noqa: SIM118
        }
        return {new: tuple(file.get_slice(old).get_shape()) for old, new in names.items()}


if __name__ == "__main__":
    main()
