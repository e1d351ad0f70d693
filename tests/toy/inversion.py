"""Does a new word learn a style that its base can draw, but was never told that word for?

The toy base, which knows flat images only, first learns the styles by their names; then the word
<glow> learns neon from images whose captions do not name it.

    # writes images, base.toml and word.toml, and says what to run
    python -m tests.toy.inversion --output runs/inversion
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from raytrain.toy import CLIP, SD15
from raytrain.toy.draw import STYLES, imagine, paint

BASE = """seed = 1
output = "{output}/base"

[model]
path = "{sd15}"

[method]
name = "full"

[data]
source = "{output}/styles"
held_out = 0.05

[train]
steps = {steps}
global_batch = 16
learning_rate = 1e-3
lr_schedule = "cosine"
warmup = 20
held_out_every = 200
checkpoint_every = 500

[sample]
prompts = [
    "a neon red star on a black background",
    "a red star on a black background",
    "a neon blue heart on a black background",
    "a blue heart on a black background",
    "a striped green circle on a black background",
    "a green circle on a black background",
]
"""

WORD = """seed = 1
output = "{output}/word"

[model]
path = "{output}/base/export/pipeline"

[method]
name = "textual_inversion"
tokens = ["<glow>"]

[data]
source = "{output}/unnamed"
held_out = 0.2

[data.captions]
trigger = "<glow>"

[train]
steps = {steps}
global_batch = 8
learning_rate = 1e-2
lr_schedule = "cosine"
warmup = 20
held_out_every = 100
checkpoint_every = 200

[sample]
images_per_prompt = 4
seed = 1000
"""

SHARED = """max_prompts = 16
width = 64
height = 64
steps = 20
guidance_scale = 4.0
batch = 8

[data.buckets]
resolution = 64
step = 16
sizes = [[64, 64]]

[data.encode]
batch = 16

[evaluate]
clip = "{clip}"
max_held_out = 24

[log]
tensorboard = false
"""
"""Goes on in the table [sample]."""


def draw_images(folder: Path, style: str, count: int, seed: int, *, named: bool = True) -> None:
    """Draw a style, every second image on black as all neon ones are: black must not stand for
    neon. `named`: captions say the style."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        background = "black" if number % 2 else None
        scene = imagine(f"{seed}/{style}/{number}", style, background=background)
        paint(scene).save(folder / f"{number:04d}.png")
        told = scene if named else replace(scene, style="flat")
        (folder / f"{number:04d}.txt").write_text(told.caption, encoding="utf-8")


def main() -> None:
    """Write everything that the two runs need."""
    parser = argparse.ArgumentParser(prog="python -m tests.toy.inversion", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=300, help="of each style, for the base")
    parser.add_argument("--base-steps", type=int, default=1500)
    parser.add_argument("--word-steps", type=int, default=400)
    options = parser.parse_args()
    output = options.output.resolve()
    for style in STYLES:
        draw_images(output / "styles" / style, style, options.images, seed=3)
    draw_images(output / "unnamed", "neon", 100, seed=7, named=False)
    for name, own, steps in (
        ("base", BASE, options.base_steps),
        ("word", WORD, options.word_steps),
    ):
        text = (own + SHARED).format(output=output, sd15=SD15, clip=CLIP, steps=steps)
        (output / f"{name}.toml").write_text(text, encoding="utf-8")
    print(f"raytrain run {output}/base.toml && raytrain sample {output}/base.toml")
    print(f"raytrain run {output}/word.toml && raytrain evaluate {output}/word.toml")


if __name__ == "__main__":
    main()
