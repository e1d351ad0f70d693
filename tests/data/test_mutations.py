"""Change one thing, prepare again: exactly what it affects is encoded again,
and nothing stale stays.

The check for staleness is a preparation of the changed source from nothing: it must hold the same,
bit for bit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raytrain import pretrained
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.pipeline.report import PrepareReport
from raytrain.data.prepare import prepare
from raytrain.families import sd15
from tests.data.captioners.conftest import (
    folder as folder,
)  # a fixture: tiny weights of captioners
from tests.data.chat_server import Server, serving
from tests.data.conftest import SIZES, draw
from tests.data.contents import contents, manifest

pytestmark = pytest.mark.usefixtures("here")
COUNT = 6
MADE = ("latents", "mask", "control", "text")


@dataclass
class World:
    """A source and its settings: six images of three shapes, a caption,
    a mask and a control image for each."""

    root: Path
    tables: dict[str, Any]
    subset: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """The `[data]` table."""
        table: dict[str, Any] = self.tables["data"]
        return table

    def path(self, name: str) -> Path:
        """Return an image's path; `masks/x` and `controls/x` are its layers."""
        return self.root / (name if "/" in name else f"images/{name}")

    def add(
        self, name: str, seed: int, size: tuple[int, int] = SIZES[0], caption: str | None = None
    ) -> None:
        """Draw an image with its layers."""
        draw(self.path(name), seed, size, caption)
        draw(self.path(f"masks/{name}"), 100 + seed, size)
        draw(self.path(f"controls/{name}"), 200 + seed, size)

    def move(self, name: str, to: str) -> None:
        """Rename an image with its caption and layers."""
        for place in (name, f"masks/{name}", f"controls/{name}"):
            self.path(place).rename(self.path(place).with_name(to))
        self.path(name).with_suffix(".txt").rename(self.path(to).with_suffix(".txt"))

    def config(self, dataset: str = "dataset") -> Config:
        """Return the config, with the dataset in a folder of that name."""
        source = {
            "source": str(self.root / "images"),
            "format": "folder",
            "masks": str(self.root / "masks"),
            "controls": str(self.root / "controls"),
            **self.subset,
        }
        return parse(
            {
                **self.tables,
                "data": {**self.data, "subsets": [source], "dataset": str(self.root / dataset)},
            }
        )


@pytest.fixture
def world(tmp_path: Path, model: str) -> World:
    data = {
        "buckets": {"resolution": 64, "step": 16},
        "masks": {"kind": "folder"},
        "controls": {"kind": "folder"},
        "encode": {"batch": 1},
    }
    made = World(
        tmp_path, {"output": str(tmp_path / "run"), "model": {"path": model}, "data": data}
    )
    for number in range(COUNT):
        made.add(f"{number}.png", number, SIZES[number % 3], f"image {number}, red, round")
    return made


@pytest.fixture
def endpoint() -> Iterator[Server]:
    def answer(question: dict[str, Any]) -> str:
        return f"{question['messages'][0]['content']} {question['messages'][1]['content']}"

    with serving(answer) as server:
        yield server


def one_pixel(name: str, value: tuple[int, ...] = (1, 2, 3)) -> Callable[[World], None]:
    def change(world: World) -> None:
        with Image.open(world.path(name)) as image:
            image.load()
        assert image.getpixel((0, 0)) != value
        image.putpixel((0, 0), value)
        image.save(world.path(name))

    return change


def write(name: str, text: str) -> Callable[[World], None]:
    return lambda world: world.path(name).write_text(text) and None


def put(table: str, **values: Any) -> Callable[[World], None]:
    """Set values of a table below `[data]`; of `[data]` itself by ""."""

    def change(world: World) -> None:
        world.data.update(
            values if not table else {table: {**world.data.get(table, {}), **values}}
        )

    return change


def other_model(part: str) -> Callable[[World], None]:
    """Give the model other weights in one part: `vae` by the setting of that name,
    anything else in a copy of its folder."""

    def change(world: World) -> None:
        other, own = str(world.root / "other"), dict(world.tables["model"])
        sd15.tiny(other, seed=1)
        if part != "vae":
            shutil.copytree(own["path"], world.root / "copy")
            shutil.copytree(f"{other}/{part}", world.root / "copy" / part, dirs_exist_ok=True)
        world.tables["model"] = own | (
            {"vae": other} if part == "vae" else {"path": str(world.root / "copy")}
        )

    return change


def move_source(world: World) -> None:
    for name in ("images", "masks", "controls"):
        (world.root / name).rename(world.root / f"moved-{name}")
    world.subset = {
        "source": str(world.root / "moved-images"),
        "masks": str(world.root / "moved-masks"),
        "controls": str(world.root / "moved-controls"),
    }


def delete(world: World) -> None:
    world.path("3.png").unlink()


def subset(**values: Any) -> Callable[[World], None]:
    return lambda world: world.subset.update(values)


def nothing(world: World) -> None:
    """Change nothing."""


def long_captions(world: World) -> None:
    world.tables["model"] = {**world.tables["model"], "max_tokens": 150}


def sharp(min: float) -> Callable[[World], None]:
    return put("quality", scores=[{"name": "sharp", "kind": "sharpness", "min": min}])


def damage(name: str) -> Callable[[World], None]:
    return lambda world: world.path(name).write_bytes(world.path(name).read_bytes()[:60]) and None


def transparent(world: World) -> None:
    """Make two of the images transparent in part."""
    for name in ("1.png", "4.png"):
        with Image.open(world.path(name)) as image:
            layer = image.convert("RGBA")
        layer.putalpha(Image.linear_gradient("L").resize(image.size))
        layer.save(world.path(name))


def both(*changes: Callable[[World], None]) -> Callable[[World], None]:
    def change(world: World) -> None:
        for one in changes:
            one(world)

    return change


@dataclass
class Case:
    """A change, what it must cost, and what stands before it."""

    change: Callable[[World], None]
    made: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Latents, masks, control images, captions."""
    scanned: int = 0
    annotated: dict[str, int] = field(default_factory=dict)
    start: Callable[[World], None] = nothing
    same: bool = False
    """The dataset's content stays the same."""


CASES = {
    "nothing": Case(nothing, same=True),
    "one pixel": Case(one_pixel("2.png"), (1, 1, 1, 0), scanned=1),
    "one pixel of a mask": Case(one_pixel("masks/2.png"), (0, 1, 0, 0), scanned=1),
    "one pixel of a control image": Case(one_pixel("controls/2.png"), (0, 0, 1, 0), scanned=1),
    "one caption": Case(write("2.txt", "another"), (0, 0, 0, 1), scanned=1),
    "one caption like another's": Case(write("2.txt", "image 3, red, round"), scanned=1),
    "a caption is taken away": Case(
        lambda world: world.path("2.txt").unlink(), (0, 0, 0, 0), scanned=1
    ),
    "one image more": Case(
        lambda world: world.add("9.png", 9, SIZES[1], "new"), (1, 1, 1, 1), scanned=1
    ),
    "a copy of an image more": Case(
        lambda world: world.add("9.png", 3, SIZES[0], "new"), scanned=1, same=True
    ),
    "one image less": Case(delete),
    "one file renamed": Case(lambda world: world.move("2.png", "aa.png"), scanned=1, same=True),
    "only the time of a file": Case(
        lambda world: os.utime(world.path("2.png"), (1, 1)), scanned=1, same=True
    ),
    "the source moved": Case(move_source, scanned=COUNT, same=True),
    "resolution": Case(put("buckets", resolution=80), (6, 6, 6, 0)),
    "a second resolution": Case(put("buckets", resolutions=[32, 64]), (6, 6, 6, 0)),
    "sizes": Case(put("buckets", sizes=[[64, 64]]), (4, 4, 4, 0)),
    "bucket rule": Case(put("buckets", rule="mean"), (4, 4, 4, 0)),
    "crop": Case(put("buckets", crop="random"), (2, 2, 2, 0)),  # the other two draw the center
    "crop by the masks": Case(
        put("buckets", crop="salience"), (4, 4, 4, 0), annotated={"folder": COUNT}
    ),
    "filter of the resize": Case(put("buckets", resample="area"), (6, 0, 0, 0)),
    "largest side": Case(put("", max_side=80), (6, 6, 6, 0), scanned=COUNT),
    "flip": Case(put("augment", flip=True), (6, 6, 6, 0)),
    "colors": Case(put("augment", colors=1), (6, 0, 0, 0)),
    "VAE": Case(other_model("vae"), (6, 0, 0, 0)),
    "text encoder": Case(other_model("text_encoder"), (0, 0, 0, 6)),
    "background": Case(put("", background="black"), start=transparent, made=(2, 2, 2, 0)),
    "background of what is scored": Case(
        both(put("", background="black"), sharp(0.0)),
        (2, 2, 2, 0),
        annotated={"sharp": 2},
        start=both(transparent, sharp(0.0)),
    ),
    "precision": Case(put("encode", precision="bf16"), (6, 0, 0, 6)),
    "longest caption": Case(long_captions, (0, 0, 0, 6)),
    "trigger word": Case(put("captions", trigger="zwx"), (0, 0, 0, 6)),
    "caption variants": Case(put("captions", variants=2, tag_dropout=0.5), (0, 0, 0, 6)),
    "prefix of a subset": Case(subset(prefix="photo of"), (0, 0, 0, 6)),
    "held out": Case(put("", held_out=0.6)),
    "trigger word of a subset": Case(subset(trigger="zwx"), (0, 0, 0, 6)),
    "repeats": Case(subset(repeats=3)),
    "weight": Case(subset(weight=0.5)),
    "shard rows": Case(put("encode", shard_rows=2, group_rows=1), same=True),
    "near-duplicates": Case(put("quality", near_duplicates=0), scanned=COUNT, same=True),
    "limit of near-duplicates": Case(
        put("quality", near_duplicates=16), start=put("quality", near_duplicates=0)
    ),
    "shortest side": Case(put("quality", min_side=60)),
    "a score": Case(sharp(1.1), annotated={"sharp": COUNT}),
    "limit of a score": Case(sharp(1.1), start=sharp(0.0)),
    "masks off": Case(put("masks", kind="none")),
    "other masks": Case(put("masks", kind="alpha"), (0, 6, 0, 0)),
    "other control images": Case(put("controls", kind="canny"), (0, 0, 6, 0)),
    "options of control images": Case(
        put("controls", options={"low": 10.0, "high": 20.0}),
        (0, 0, 6, 0),
        start=put("controls", kind="canny"),
    ),
    "a mask repaired": Case(
        lambda world: draw(world.path("masks/2.png"), 7, SIZES[2]),
        (0, 1, 0, 0),
        1,
        start=damage("masks/2.png"),
    ),
    "a control image repaired": Case(
        lambda world: draw(world.path("controls/2.png"), 7, SIZES[2]),
        (0, 0, 1, 0),
        1,
        start=damage("controls/2.png"),
    ),
    "an image repaired": Case(
        lambda world: draw(world.path("2.png"), 7, SIZES[2]),
        (1, 1, 1, 0),
        1,
        start=damage("2.png"),
    ),
    "an image damaged": Case(damage("2.png"), scanned=1),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if number % 2 else name
     for number, name in enumerate(CASES)],
)  # fmt: skip
def test_a_change_costs_what_it_affects_and_leaves_nothing_stale(name: str, world: World) -> None:
    check(CASES[name], world)


def test_another_prompt_makes_the_annotations_and_captions_again_but_no_array(
    world: World, folder: Callable[[str], str]
) -> None:
    for number in range(2, COUNT):
        world.path(f"{number}.txt").unlink()
    start = put(
        "captions",
        captioner="blip",
        path=folder("blip"),
        max_new_tokens=6,
        num_beams=1,
        prompt="a red",
    )
    change = put(
        "captions",
        captioner="blip",
        path=folder("blip"),
        max_new_tokens=6,
        num_beams=1,
        prompt="the blue",
    )
    start(world)
    prepare(world.config())
    before = {row["captions"][0] for row in contents(world.config()).values() if "path" in row}
    change(world)
    report = prepare(world.config())
    after = {row["captions"][0] for row in contents(world.config()).values() if "path" in row}
    assert report.annotated == {"blip": 4}
    assert made(report) == (0, 0, 0, len(after - before))
    assert len(after - before) > 0
    still(world, report)


def test_a_rewriter_and_its_instruction(world: World, endpoint: Server) -> None:
    options = {"base_url": endpoint.url, "model": "pen", "instruction": "please"}
    write_again = {"rewriter": "openai", "rewriter_options": options}
    check(Case(put("captions", **write_again), (0, 0, 0, 6), annotated={"openai": 6}), world)
    asked = len(endpoint.questions)
    assert asked == 2 * COUNT, "once for the dataset, once for the one from nothing"
    options = {**options, "instruction": "kindly"}
    put("captions", rewriter_options=options)(world)
    assert prepare(world.config()).annotated == {"openai": 6}
    write("2.txt", "one anew")(world)
    assert prepare(world.config()).annotated == {"openai": 1}
    assert len(endpoint.questions) == asked + COUNT + 1
    assert contents(world.config())["2.png", "48x80"]["captions"] == ["kindly one anew"]


def check(case: Case, world: World) -> None:
    """Prepare, change, prepare again, count; then compare with a preparation from nothing."""
    case.start(world)
    first = prepare(world.config())
    case.change(world)
    pretrained._hash_folders.cache_clear()
    report = prepare(world.config())
    assert made(report) == case.made
    assert report.scanned == case.scanned
    assert {name: count for name, count in report.annotated.items() if count} == case.annotated
    assert (report.fingerprint == first.fingerprint) == case.same
    still(world, report)


def still(world: World, report: PrepareReport) -> None:
    """A further preparation makes nothing and changes nothing; one from nothing gives the same."""
    again = prepare(world.config())
    assert (again.scanned, made(again), set(again.annotated.values()) - {0}) == (
        0,
        (0, 0, 0, 0),
        set(),
    )
    assert (again.snapshot, again.fingerprint) == (report.snapshot, report.fingerprint)
    fresh = prepare(world.config("fresh"))
    assert fresh.fingerprint == report.fingerprint
    assert contents(world.config("fresh")) == contents(world.config())
    assert manifest(world.config("fresh")).buckets == manifest(world.config()).buckets
    assert fresh.rules == again.rules == report.rules


def made(report: PrepareReport) -> tuple[int, ...]:
    """Return latents, masks, control images and captions encoded."""
    return tuple(report.made.get(store, 0) for store in MADE)
