"""Augmented versions: what is stored equals what the VAE says of pixels that Pillow made;
the loader picks and says the cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raytrain.config import Config
from raytrain.data.buckets import fits
from raytrain.data.image.render import pixels
from raytrain.data.image.transform import transforms
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Loader
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from tests.data.conftest import draw
from tests.data.contents import contents
from tests.data.direct import Direct, same, shown, stored

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three images with room for cuts, one of them stored lying and viewed upright."""
    folder = tmp_path / "images"
    draw(folder / "wide.png", 1, (120, 64), "wide")
    draw(folder / "tall.png", 2, (64, 110), "tall")
    draw(folder / "turned.png", 3, (120, 64), "turned")
    with Image.open(folder / "turned.png") as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees: it is viewed as 64x120
        image.save(folder / "turned.png", exif=exif)
    return folder


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {path: row for (path, _), row in contents(config).items() if path}


def test_flipped_versions_are_the_mirrored_image_encoded(source: Path, make_config: Make) -> None:
    config = make_config(
        held_out=0.0, buckets={"sizes": [[64, 64]], "step": 16}, augment={"flip": True}
    )
    assert prepare(config).made["latents"] == 6
    direct, found = Direct(config), rows(config)
    for name, resized, top, left in (("wide", (120, 64), 0, 28), ("tall", (64, 110), 23, 0)):
        plain = shown(source / f"{name}.png", resized, top, left, (64, 64))
        first, second = found[f"{name}.png"]["latents"]
        assert same(first, direct.latents(plain))
        assert same(second, direct.latents(plain[:, ::-1]))
        assert not same(first, direct.latents(plain[:, ::-1]))
        assert (first[1:], second[1:]) == ((top, left), (top, left))


def test_cuts_are_where_their_numbers_say_and_the_loader_tells_them(
    source: Path, make_config: Make
) -> None:
    config = make_config(
        held_out=0.0,
        buckets={"sizes": [[64, 64]], "step": 16, "crop": "random"},
        augment={"crops": 3, "flip": True},
    )
    prepare(config)
    direct, found = Direct(config), rows(config)
    sizes = {
        "wide.png": (64, 120),
        "tall.png": (110, 64),
        "turned.png": (120, 64),
    }  # height and width, as viewed
    cuts: dict[str, dict[bytes, tuple[int, int]]] = {}
    for name, row in found.items():
        assert (row["original_height"], row["original_width"]) == sizes[name]
        assert len(row["latents"]) == 6
        assert len({stored(version).tobytes() for version in row["latents"]}) == 6
        cuts[row["id"].hex()] = {
            stored(version).tobytes(): version[1:] for version in row["latents"]
        }
        height, width = sizes[name]
        for number, version in enumerate(row["latents"]):
            top, left = version[1:]
            if name != "turned.png":
                mirror = number % 2
                at = (
                    width - 64 - left if mirror else left
                )  # a cut's place is counted in the mirrored image
                cut = shown(source / name, (width, height), top, at, (64, 64))
                assert same(version, direct.latents(cut[:, ::-1] if mirror else cut))
    dataset = Dataset(config.dataset)
    seen: dict[str, list[bytes]] = {}
    for seed in (0, 0, 1):
        order = []
        loader = Loader(dataset, BatchSampler(dataset.counts(), batch=3, seed=seed, epochs=12))
        for step in range(loader.batch_sampler.total_steps):
            batch = loader.step(step).batch
            for identity, latents, size in zip(
                batch.ids,
                batch.columns["latents"].numpy(),
                batch.columns["sizes"].tolist(),
                strict=True,
            ):
                [name] = [name for name, row in found.items() if row["id"].hex() == identity]
                assert tuple(size) == (*sizes[name], *cuts[identity][latents.tobytes()], 64, 64)
                order.append(latents.tobytes())
        assert len(set(order)) > 12, "of 18 versions nearly all come up in 12 epochs"
        seen.setdefault(str(seed), order)
        assert seen[str(seed)] == order
    assert seen["0"] != seen["1"]


def test_the_turned_image_is_encoded_upright(source: Path, make_config: Make) -> None:
    config = make_config(held_out=0.0, buckets={"sizes": [[64, 64]], "step": 16})
    prepare(config)
    with Image.open(source / "turned.png") as image:
        upright = image.convert("RGB").transpose(Image.Transpose.ROTATE_270)
    cut = np.asarray(upright.crop((0, 28, 64, 92)))
    row = rows(config)["turned.png"]
    assert same(row["latents"][0], Direct(config).latents(cut))
    batch = (
        Loader(Dataset(config.dataset), BatchSampler({"64x64": 3}, batch=3, seed=0, epochs=1))
        .step(0)
        .batch
    )
    [size] = [
        size
        for identity, size in zip(batch.ids, batch.columns["sizes"].tolist(), strict=True)
        if identity == row["id"].hex()
    ]
    assert size == [120, 64, 28, 0, 64, 64]


def test_colors_zooms_and_outpaints_are_stored_each(source: Path, make_config: Make) -> None:
    augment = {"colors": 2, "zooms": 1, "outpaints": 1}
    config = make_config(held_out=0.0, augment=augment)
    assert prepare(config).made["latents"] == 3 * 5
    direct = Direct(config)
    for name, row in rows(config).items():
        if name == "turned.png":
            continue
        with Image.open(source / name) as image:
            whole = image.convert("RGB")
        [fit] = fits(*whole.size, config.data.buckets)
        versions = transforms(
            *whole.size,
            fit,
            config.data.buckets,
            config.data.augment,
            row["id"].hex(),
            config.seed,
        )
        assert [bool(version.color) for version in versions] == [False, True, True, False, False]
        assert [bool(version.inset) for version in versions] == [False, False, False, False, True]
        for version, array in zip(versions, row["latents"], strict=True):
            assert same(array, direct.latents(pixels(whole, version, fit.bucket)))
            assert array[1:] == (version.crop_top, version.crop_left)
        assert len({stored(array).tobytes() for array in row["latents"]}) == 5
