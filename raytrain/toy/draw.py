"""Draw the toy world: one colored shape on a plain background, with a caption that is true.

Every image is a pure function of its seed, so a folder can be drawn again, bit for bit, anywhere.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Size = tuple[int, int]
"""Width and height in pixels."""
Point = tuple[float, float]

TRAINING_SIZES: dict[str, Size] = {"square": (64, 64), "landscape": (80, 48), "portrait": (48, 80)}
FOLDER_SIZES: dict[str, Size] = {
    "square": (256, 256),
    "landscape": (320, 192),
    "portrait": (192, 320),
}

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "green": (30, 160, 60),
    "blue": (30, 70, 220),
    "yellow": (250, 220, 40),
    "purple": (140, 45, 190),
    "orange": (250, 130, 20),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}
BACKGROUNDS = tuple(PALETTE)
COLORS = tuple(name for name in PALETTE if name != "gray")
NEON_COLORS = tuple(name for name in COLORS if name != "black")
STYLES = ("flat", "neon", "striped")
"""The base model knows `flat`; the others are for a user's adapter to learn."""

OVERSAMPLING = 4


def _around(count: int, radii: Sequence[float] = (1.0,)) -> list[Point]:
    """Points at even angles, the first on top, their distances cycling through `radii`."""
    turns = [(2 * math.pi * i / count, radii[i % len(radii)]) for i in range(count)]
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for angle, radius in turns]


def _heart() -> list[Point]:
    angles = [2 * math.pi * i / 64 for i in range(64)]
    return [
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) + 2.5)
            / 16,
        )
        for a in angles
    ]


def _cross(arm: float = 0.32) -> list[Point]:
    corner = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    points: list[Point] = []
    for _ in range(4):
        points += corner
        corner = [(-y, x) for x, y in corner]
    return list(dict.fromkeys(points))


OUTLINES: dict[str, list[Point]] = {
    "circle": _around(64),
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)],
    "star": _around(10, (1.0, 0.42)),
    "heart": _heart(),
    "cross": _cross(),
}
"""Each shape as a closed polygon inside the square from -1 to 1, y pointing down."""
SHAPES = tuple(OUTLINES)


@dataclass(frozen=True)
class Scene:
    """What one image shows; lengths are fractions of the image's short side."""

    shape: str
    color: str
    background: str
    style: str
    radius: float
    right: float
    down: float

    @property
    def caption(self) -> str:
        """The true caption, such as "a red star on a blue background"."""
        subject = " ".join(word for word in (self.style, self.color, self.shape) if word != "flat")
        return f"{_article(subject)} on {_article(self.background)} background"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _choose(rng: random.Random, what: str, choices: Sequence[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in choices:
        raise ValueError(f"unknown {what} {wanted!r}: choose one of {', '.join(choices)}")
    drawn = rng.choice(choices)
    return drawn if wanted is None else wanted


def imagine(
    seed: int | str,
    style: str = "flat",
    *,
    shape: str | None = None,
    color: str | None = None,
    background: str | None = None,
) -> Scene:
    """The scene that belongs to `seed`; whatever is not named is chosen by the seed."""
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
    rng = random.Random(str(seed))
    shape = _choose(rng, "shape", SHAPES, shape)
    backgrounds = ("black",) if style == "neon" else BACKGROUNDS
    colors = NEON_COLORS if style == "neon" else COLORS
    if background is not None:
        colors = tuple(name for name in colors if name != background)
    color = _choose(rng, "color", colors, color)
    background = _choose(
        rng, "background", [name for name in backgrounds if name != color], background
    )
    radius = rng.uniform(0.30, 0.40)
    room = (
        0.5 - radius - 0.04
    )  # the shape stays inside the center square, so a center crop keeps it whole
    return Scene(
        shape, color, background, style, radius, rng.uniform(-room, room), rng.uniform(-room, room)
    )


def paint(scene: Scene, size: Size = TRAINING_SIZES["square"]) -> Image.Image:
    """Paint a scene, anti-aliased, at `size` pixels."""
    width, height = size[0] * OVERSAMPLING, size[1] * OVERSAMPLING
    short = min(width, height)
    radius = scene.radius * short
    x, y = width / 2 + scene.right * short, height / 2 + scene.down * short
    outline = [(x + radius * px, y + radius * py) for px, py in OUTLINES[scene.shape]]
    mask = _STYLE_MASKS[scene.style]((width, height), outline, radius)
    large = Image.new("RGB", (width, height), PALETTE[scene.background])
    large.paste(PALETTE[scene.color], (0, 0, width, height), mask)
    return large.resize(size, Image.Resampling.BOX)


def _filled(size: Size, outline: list[Point], radius: float) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    return mask


def _traced(size: Size, outline: list[Point], width: float) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).line(
        [*outline, *outline[:2]], fill=255, width=max(1, round(width)), joint="curve"
    )
    return mask


def _striped(size: Size, outline: list[Point], radius: float) -> Image.Image:
    stripes = Image.new("L", size)
    pen = ImageDraw.Draw(stripes)
    period = radius / 2
    top = min(y for _, y in outline)
    for i in range(5):
        pen.rectangle((0, top + i * period, size[0], top + (i + 0.5) * period), fill=255)
    inside = ImageChops.multiply(_filled(size, outline, radius), stripes)
    return ImageChops.lighter(inside, _traced(size, outline, radius * 0.12))


def _neon(size: Size, outline: list[Point], radius: float) -> Image.Image:
    tube = _traced(size, outline, radius * 0.2)
    glow = _traced(size, outline, radius * 0.4).filter(ImageFilter.GaussianBlur(radius * 0.22))
    return ImageChops.lighter(tube, glow.point([level * 7 // 10 for level in range(256)]))


_STYLE_MASKS = {"flat": _filled, "neon": _neon, "striped": _striped}


def draw(
    seed: int | str,
    style: str = "flat",
    size: Size = TRAINING_SIZES["square"],
    *,
    shape: str | None = None,
    color: str | None = None,
    background: str | None = None,
) -> tuple[Image.Image, str]:
    """The image and the caption that belong to `seed`."""
    scene = imagine(seed, style, shape=shape, color=color, background=background)
    return paint(scene, size), scene.caption


def draw_folder(
    folder: str | Path,
    count: int,
    style: str = "flat",
    seed: int = 0,
    aspects: Sequence[str] = tuple(FOLDER_SIZES),
) -> Path:
    """Fill `folder` with `count` images, `0001.png` with its caption in `0001.txt`,
    cycling through `aspects`."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        aspect = aspects[(number - 1) % len(aspects)]
        if aspect not in FOLDER_SIZES:
            raise ValueError(f"unknown aspect {aspect!r}: choose one of {', '.join(FOLDER_SIZES)}")
        image, caption = draw(f"{seed}/{number}", style, FOLDER_SIZES[aspect])
        image.save(target / f"{number:04d}.png")
        (target / f"{number:04d}.txt").write_text(caption + "\n", encoding="utf-8")
    return target
