"""The toy world is the same everywhere, and its captions are true."""

from pathlib import Path

import pytest
from PIL import Image

from raytrain.toy import draw as toy


def test_a_seed_is_one_image() -> None:
    first, caption = toy.draw(7, "striped")
    again, same = toy.draw(7, "striped")
    assert first.tobytes() == again.tobytes()
    assert caption == same
    assert first.tobytes() != toy.draw(8, "striped")[0].tobytes()


@pytest.mark.parametrize("style", toy.STYLES)
@pytest.mark.parametrize("shape", toy.SHAPES)
def test_the_image_shows_what_the_caption_says(style: str, shape: str) -> None:
    for seed in range(6):
        scene = toy.imagine(seed, style, shape=shape)
        size = list(toy.TRAINING_SIZES.values())[seed % 3]
        image = toy.paint(scene, size)
        assert image.mode == "RGB"
        assert image.size == size
        shares = {color: count for count, color in image.getcolors(size[0] * size[1]) or []}
        background, color = toy.PALETTE[scene.background], toy.PALETTE[scene.color]
        assert background != color
        assert max(shares, key=lambda each: shares[each]) in (background, color)
        if style != "neon":  # its halo may reach the corner
            assert image.getpixel((0, 0)) == background
        assert shares[color] > 5


def test_only_flat_goes_without_its_style_in_the_caption() -> None:
    def told(style: str, color: str, background: str) -> str:
        return toy.draw(1, style, shape="star", color=color, background=background)[1]

    assert told("flat", "red", "blue") == "a red star on a blue background"
    assert told("flat", "orange", "white") == "an orange star on a white background"
    assert told("neon", "red", "black") == "a neon red star on a black background"
    assert told("striped", "red", "orange") == "a striped red star on an orange background"


def test_the_shape_survives_a_center_crop() -> None:
    for seed in range(30):
        for width, height in toy.TRAINING_SIZES.values():
            scene = toy.imagine(seed)
            image = toy.paint(scene, (width, height))
            short = min(width, height)
            left, top = (width - short) // 2, (height - short) // 2
            outside = image.copy()
            outside.paste(toy.PALETTE[scene.background], (left, top, left + short, top + short))
            assert outside.getcolors() == [(width * height, toy.PALETTE[scene.background])]


def test_a_folder_holds_images_with_their_captions(tmp_path: Path) -> None:
    folder = toy.draw_folder(tmp_path / "images", 4, "neon", seed=3)
    assert sorted(file.name for file in folder.iterdir()) == [
        f"{number:04d}.{ending}" for number in range(1, 5) for ending in ("png", "txt")
    ]
    sizes = []
    for number in range(1, 5):
        with Image.open(folder / f"{number:04d}.png") as image:
            sizes.append(image.size)
        assert (folder / f"{number:04d}.txt").read_text(encoding="utf-8").startswith("a")
    assert sizes == [*toy.FOLDER_SIZES.values(), toy.FOLDER_SIZES["square"]]
    again = toy.draw_folder(tmp_path / "again", 4, "neon", seed=3)
    for file in folder.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_an_unknown_word_is_told_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="unknown style 'baroque': choose one of flat, neon, striped"
    ):
        toy.draw(1, "baroque")
    with pytest.raises(ValueError, match="unknown background 'blue': choose one of black"):
        toy.draw(1, "neon", background="blue")
    with pytest.raises(ValueError, match="unknown shape 'cube'"):
        toy.draw(1, shape="cube")


def test_color_and_background_cannot_be_the_same() -> None:
    with pytest.raises(ValueError, match="unknown color 'red'"):
        toy.draw(1, color="red", background="red")
