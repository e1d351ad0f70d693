"""Versions for few images, around faces and with painted surroundings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from raytrain.config import Config
from raytrain.config.data import AugmentConfig, BucketConfig, DataConfig
from raytrain.data.annotate import versions
from raytrain.data.buckets import Fit
from raytrain.data.image import render
from raytrain.data.image.transform import Inset, Placement, Transform, transforms
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.families import sd15
from tests.data.conftest import draw
from tests.data.contents import contents
from tests.data.direct import Direct, same

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]
FIT = Fit((64, 64), (96, 64))


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {path: row for (path, _), row in contents(config).items() if path}


def made(augment: AugmentConfig, **more: Any) -> tuple[Transform, ...]:
    return transforms(960, 640, FIT, BucketConfig(), augment, "id", 3, **more)


# up_to -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "flip", "number"),
    [(40, True, 2), (40, False, 1), (39, True, 2), (39, False, 2), (20, True, 2), (19, True, 3),
     (3, True, 14), (1, False, 40)],
)  # fmt: skip
def test_few_images_get_versions_until_they_are_enough(
    images: int, flip: bool, number: int
) -> None:
    found = made(AugmentConfig(flip=flip, up_to=40), images=images)
    assert len(found) == len(set(found)) == number
    assert images * number >= 40
    plain = made(AugmentConfig(flip=flip))
    assert found[: len(plain)] == plain
    copies = found[len(plain) :]
    assert all(one.color for one in copies)
    assert all(one.placement.resized_width > FIT.resized[0] for one in copies), "a part of each"
    assert (
        found[: len(plain) + 2]
        == made(AugmentConfig(flip=flip, up_to=40), images=10)[: min(number, len(plain) + 2)]
    ), "another number of images changes none that both have"


def test_a_set_is_brought_to_the_number_asked_for(tmp_path: Path, make_config: Make) -> None:
    for number in range(3):
        draw(tmp_path / f"images/{number}.png", number, (96, 80))
    config = make_config(held_out=0.0, augment={"up_to": 7})
    assert prepare(config).made["latents"] == 9
    draw(tmp_path / "images/3.png", 3, (96, 80))
    assert prepare(config).made["latents"] == 2
    assert {len(row["latents"]) for row in rows(config).values()} == {2}


# faces -------------------------------------------------------------------------------------------


def test_a_cut_around_a_face_shows_as_much_of_it_as_asked() -> None:
    face = (0.25, 0.5, 0.1, 0.1)  # 96 x 64 of 960 x 640, around (240, 320)
    for times in (2.0, 4.0):
        augment = AugmentConfig(faces=1, face_range=(times, times))
        _, one = made(augment, face=face)
        # 64 pixels show `times` faces of 96: the image is resized by 64 / (times x 96)
        scale = 64 / (times * 96)
        resized = (round(960 * scale), round(640 * scale))
        left, top = round(0.25 * resized[0] - 32), round(0.5 * resized[1] - 32)
        assert one == Transform(Placement(*resized, top, left))
    ranged = made(AugmentConfig(faces=8), face=face)
    widths = sorted(one.placement.resized_width for one in ranged[1:])
    assert 160 <= widths[0] < widths[-1] <= 320
    assert made(AugmentConfig(faces=3)) == made(AugmentConfig())
    tiny = made(AugmentConfig(faces=1), face=(0.5, 0.5, 0.002, 0.002))
    assert tiny[1].placement[:2] == (960, 640), "not enlarged"
    whole = made(AugmentConfig(faces=1), face=(0.5, 0.5, 1.0, 1.0))
    assert len(whole) == 1, "as small as the bucket: that is the plain cut"


def test_faces_are_found_and_those_without_are_told(tmp_path: Path, make_config: Make) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(pictures.astronaut()).save(tmp_path / "images/astronaut.png")
    draw(tmp_path / "images/none.png", 1, (200, 200))
    augment = {"faces": 2, "face_range": [1.5, 3.0]}
    config = make_config(held_out=0.0, augment=augment)
    report = prepare(config)
    assert report.annotated["face"] == 2
    assert "no face was found in 1 images" in " ".join(report.notes)
    found = rows(config)
    assert {path: len(row["latents"]) for path, row in found.items()} == {
        "astronaut.png": 3,
        "none.png": 1,
    }
    for _, top, left in found["astronaut.png"]["latents"][1:]:
        assert left > 0  # the face is at (225, 110) of 512 x 512
        assert top < left
    assert prepare(config).annotated["face"] == 0


# outpainting -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """Return a maker of options for a pipeline of tiny weights of a seed."""
    root = tmp_path_factory.mktemp("painter")

    def make(seed: int = 0) -> dict[str, Any]:
        folder = root / str(seed)
        if not folder.exists():
            sd15.tiny(str(folder), seed)
        return {
            "outpainter": "diffusers",
            "outpainter_options": {"path": str(folder), "steps": 2, "prompt": "a room"},
        }

    return make


def test_a_pipeline_paints_around_the_image_and_leaves_it_as_it_is(
    painter: Callable[..., dict[str, Any]],
) -> None:
    image = Image.fromarray(pictures.astronaut()).resize((64, 64))
    one = Transform(Placement(40, 40, 0, 0), inset=Inset(40, 40, 8, 16))
    data = DataConfig(augment=AugmentConfig(outpaints=1, **painter()))
    painted = versions.Maker(data).pixels(image, one, (64, 64))
    sketch = render.pixels(image, one, (64, 64))
    inner = (slice(8, 48), slice(16, 56))
    assert (painted[inner] == sketch[inner]).all()
    outside = np.ones((64, 64), bool)
    outside[inner] = False
    assert (painted[outside] != sketch[outside]).mean() > 0.5
    assert (versions.Maker(data).pixels(image, one, (64, 64)) == painted).all()
    plain = Transform(Placement(64, 64, 0, 0))
    assert (versions.Maker(data).pixels(image, plain, (64, 64)) == np.asarray(image)).all()


def test_painted_versions_are_stored_and_another_painter_costs_them_alone(
    tmp_path: Path, make_config: Make, painter: Callable[..., dict[str, Any]]
) -> None:
    for number in range(2):
        draw(tmp_path / f"images/{number}.png", number, (64, 64))

    def config(**augment: Any) -> Config:
        return make_config(held_out=0.0, augment={"outpaints": 1, **augment}, encode={"batch": 1})

    first = config(**painter())
    assert prepare(first).made["latents"] == 4
    key = bytes.fromhex(rows(first)["0.png"]["id"].hex()).hex()
    plain, extended = transforms(
        64, 64, Fit((64, 64), (64, 64)), first.data.buckets, first.data.augment, key, first.seed
    )
    with Image.open(tmp_path / "images/0.png") as opened:
        image = opened.convert("RGB")
    direct, found = Direct(first), rows(first)["0.png"]["latents"]
    maker = versions.Maker(first.data)
    for version, stored in zip((plain, extended), found, strict=True):
        assert same(stored, direct.latents(maker.pixels(image, version, (64, 64))))
    assert not same(found[1], direct.latents(render.pixels(image, extended, (64, 64))))
    assert prepare(config(**painter(1))).made == {"latents": 2}
    assert prepare(config()).made == {"latents": 2}
    assert prepare(config(**painter())).made == {}


def test_settings_without_an_effect_are_refused() -> None:
    for augment, message in (
        ({"outpainter": "diffusers", "outpainter_options": {"path": "x"}}, "augment.outpaints"),
        ({"outpainter_options": {"path": "x"}}, "augment.outpainter"),
        ({"face_options": {"side": 64}}, "augment.faces"),
        ({"faces": 1, "face_options": {"sides": 64}}, "sides"),
        ({"faces": 1, "face_range": (3.0, 2.0)}, "ascending"),
    ):
        with pytest.raises((UserError, ValueError), match=message):
            AugmentConfig(**augment)
