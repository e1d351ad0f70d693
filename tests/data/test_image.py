"""Decoding every kind of image file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from raytrain.data.image.image import BadImage, decode, measure

LIMIT = 10**6


def save(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def pixel(content: bytes, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    image = decode(content, LIMIT)
    assert image.mode == "RGB"
    return image.getpixel((x, y))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_decodes(kind: str) -> None:
    content = save(Image.new("RGB", (40, 30), (200, 30, 60)), kind)
    assert measure(content, LIMIT) == (40, 30)
    assert np.allclose(pixel(content), (200, 30, 60), atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_to_size_and_pixels(orientation: int) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("red", (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = save(image, "PNG", exif=exif)
    seen = decode(content, LIMIT)
    assert measure(content, LIMIT) == seen.size == ((20, 40) if orientation > 4 else (40, 20))
    corners = [
        (0, 0),
        (seen.width - 1, 0),
        (seen.width - 1, seen.height - 1),
        (0, seen.height - 1),
    ]
    red = {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}[orientation]
    assert seen.getpixel(corners[red]) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode: str) -> None:
    image = Image.new(mode, (8, 8), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert pixel(save(image)) == (255, 255, 255)


def test_a_transparent_palette_entry_lies_on_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    content = save(image, "PNG", transparency=0)
    assert pixel(content) == (255, 255, 255)
    assert pixel(content, 1) == (200, 100, 50)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    content = save(Image.fromarray(ramp))
    assert [pixel(content, x)[0] for x in range(4)] == [0, 1, 128, 255]


def test_cmyk_becomes_rgb() -> None:
    red, green, blue = pixel(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    assert pixel(save(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am no image", "not an image"),
        (save(Image.effect_noise((64, 64), 90))[:900], "damaged"),
        (save(Image.effect_noise((64, 64), 90), "JPEG")[:600], "damaged"),
    ],
)
def test_broken_files_are_bad_images_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(content, LIMIT)


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    content = save(Image.new("1", (2000, 2000)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    for function in (measure, decode):
        with pytest.raises(BadImage, match=r"4000000 pixels is above data.max_pixels = 1000000"):
            function(content, LIMIT)
