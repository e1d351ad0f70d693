"""Colors, depths, transparency and damage: what `decode` makes of files that Pillow alone reads
wrongly or half."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from raytrain.data.image.image import BadImage, decode, decode_any, decode_layers, measure
from raytrain.data.image.kinds import describe
from raytrain.errors import UserError
from raytrain.table import check_color
from tests.data.test_image import LIMIT, save

NOISE = np.random.default_rng(0)
ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
"""Adobe RGB (1998) to XYZ, adapted to D50: each column is one primary."""
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def noise(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    small = NOISE.integers(0, 256, (4, 6, len(mode)), dtype=np.uint8).squeeze()
    return Image.fromarray(small, mode).resize(size, Image.Resampling.BICUBIC)


def png16(values: NDArray[np.uint16], extra: bytes = b"") -> bytes:
    """Write a 16-bit PNG of 1 to 4 channels, which no library at hand does for all of them."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, values, metadata=None, **options)
    return sink.getvalue()


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Write an ICC profile, version 2 (ICC.1:2001-04, clauses 6.1 and 6.2)."""
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def gamma_profile(space: bytes, gamma: float, primaries: NDArray[Any]) -> bytes:
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"wtpt": xyz(np.array([0.9642, 1, 0.8249]))}
    for index, color in enumerate(b"rgb"):
        tags[bytes([color]) + b"XYZ"], tags[bytes([color]) + b"TRC"] = (
            xyz(primaries[:, index]),
            curve,
        )
    return icc(space, tags if space == b"RGB " else {b"wtpt": tags[b"wtpt"], b"kTRC": curve})


def xyz(values: NDArray[Any]) -> bytes:
    return (
        b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))
    )


def encoded(linear: NDArray[Any]) -> NDArray[Any]:
    """Apply the transfer curve of sRGB (IEC 61966-2-1) to linear light."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("BMP", {})]
)
@pytest.mark.parametrize(
    "profile", [b"", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"junk"]
)
def test_plain_images_are_bit_identical_to_pillows(
    kind: str, options: dict[str, Any], profile: bytes
) -> None:
    more = {"icc_profile": profile} if profile and kind != "BMP" else {}
    for image in (noise(), noise("L")):
        content = save(image, kind, **options, **more)
        assert (
            np.asarray(decode(content, LIMIT))
            == np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        ).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_is_rounded(channels: int) -> None:
    values = NOISE.integers(0, 65536, (9, 7, channels), dtype=np.uint16)
    image, alpha = decode_layers(png16(values), LIMIT)
    wanted = np.floor(values / 257 + 0.5).astype(np.uint8)
    if channels in (1, 3):
        assert alpha is None
        assert (np.asarray(image) == wanted).all()
    else:
        layer = Image.fromarray(
            np.concatenate([wanted[..., :1]] * 3 + [wanted[..., 1:]], -1)
            if channels == 2
            else wanted
        )
        white = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        assert (np.asarray(alpha) == wanted[..., -1]).all()
        assert (np.asarray(image) == np.asarray(white)).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib"},
        {"tile": (16, 16)},
        {"compression": "zlib", "predictor": True, "byteorder": ">"},
    ],
)
def test_sixteen_bit_tiff_is_rounded(options: dict[str, Any]) -> None:
    values = NOISE.integers(0, 65536, (40, 24, 3), dtype=np.uint16)
    wanted = np.floor(values / 257 + 0.5)
    assert (np.asarray(decode(tiff(values, photometric="rgb", **options), LIMIT)) == wanted).all()
    with_alpha = np.concatenate([values, np.full_like(values[..., :1], 65535)], -1)
    content = tiff(with_alpha, photometric="rgb", extrasamples=["unassalpha"], **options)
    assert (np.asarray(decode(content, LIMIT)) == wanted).all()
    assert (
        np.asarray(decode(tiff(values[..., 0], **options), LIMIT))[..., 1] == wanted[..., 0]
    ).all()
    if "byteorder" in options:
        return  # Pillow knows no such image where white is zero
    white_is_zero = tiff(values[..., 0], photometric="miniswhite", **options)
    assert (
        np.asarray(decode(white_is_zero, LIMIT))[..., 1]
        == np.floor((65535 - values[..., 0]) / 257 + 0.5)
    ).all()


def test_twelve_bit_tiff_reaches_white() -> None:
    content = bytearray(tiff(np.zeros((1, 2), np.uint16)))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags = file.pages[0].tags
        depth, place = tags["BitsPerSample"].valueoffset, tags["StripOffsets"].value[0]
    content[depth : depth + 2] = struct.pack("<H", 12)
    content[place : place + 3] = b"\xff\xf8\x00"  # 4095, then 2048
    assert [decode(bytes(content), LIMIT).getpixel((x, 0)) for x in (0, 1)] == [
        (255,) * 3,
        (128,) * 3,
    ]


def test_the_transparent_color_of_a_sixteen_bit_png_is_compared_in_full() -> None:
    values = np.array([[[1000, 2000, 3000], [1001, 2000, 3000]]], np.uint16)
    content = png16(values, chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000)))
    image, alpha = decode_layers(content, LIMIT)
    assert list(np.asarray(alpha)[0]) == [0, 255]
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (4, 8, 12)]
    gray = decode_layers(png16(values[..., :1], chunk(b"tRNS", struct.pack(">H", 1001))), LIMIT)[1]
    assert list(np.asarray(gray)[0]) == [255, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
@pytest.mark.parametrize(
    ("background", "color"), [("white", (255,) * 3), ("#0a141e", (10, 20, 30))]
)
def test_transparency_lies_on_the_background(
    mode: str, background: str, color: tuple[int, int, int]
) -> None:
    if mode == "P":
        source = Image.new("P", (2, 1), 0)
        source.putpalette([9, 9, 9, 200, 100, 50])
        content = save(source, "PNG", transparency=0)
    elif mode == "1":
        content = save(Image.new("1", (2, 1), 0), "PNG", transparency=0)
    else:
        content = save(Image.new(mode, (2, 1), (0,) * len(mode)))
    assert decode(content, LIMIT, background).getpixel((0, 0)) == color
    image, alpha = decode_layers(content, LIMIT, background)
    assert image.mode == "RGB"
    assert alpha is not None
    assert (alpha.mode, alpha.getpixel((0, 0))) == ("L", 0)
    assert decode_any(content, LIMIT).getpixel((0, 0))[3] == 0  # type: ignore[index]


def test_half_transparency_mixes_and_the_alpha_is_turned_with_the_image() -> None:
    source = Image.new("RGBA", (4, 2), (100, 200, 0, 255))
    source.putpixel((0, 0), (100, 200, 0, 51))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        content = save(source, kind, exif=exif, **options)
        image, alpha = decode_layers(content, LIMIT, "black")
        assert alpha is not None
        assert image.size == alpha.size == measure(content, LIMIT) == (2, 4)
        assert alpha.getpixel((1, 0)) == 51
        assert image.getpixel((1, 0)) == (20, 40, 0)


def test_wide_gamut_is_converted_as_the_formulas_say() -> None:
    image = noise()
    content = save(image, "PNG", icc_profile=gamma_profile(b"RGB ", 563 / 256, ADOBE))
    light = (np.asarray(image) / 255) ** (563 / 256)
    wanted = encoded(light @ (np.linalg.inv(SRGB) @ ADOBE).T)
    assert abs(np.asarray(decode(content, LIMIT)) - wanted).max() <= 2
    assert abs(np.asarray(decode(content, LIMIT)) - np.asarray(image).astype(float)).max() > 20
    layer = image.copy()
    layer.putalpha(noise("L"))
    transparent = save(layer, "PNG", icc_profile=gamma_profile(b"RGB ", 563 / 256, ADOBE))
    assert (np.asarray(decode_layers(transparent, LIMIT)[1]) == np.asarray(layer)[..., 3]).all()


def test_a_gray_profile_is_followed_and_one_of_other_channels_is_not() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    linear = gamma_profile(b"GRAY", 1.0, ADOBE)
    seen = np.asarray(decode(save(ramp, icc_profile=linear), LIMIT))[0, :, 0]
    assert abs(seen - encoded(np.arange(256) / 255)).max() <= 1
    assert (
        np.asarray(decode_any(save(ramp, icc_profile=linear), LIMIT).convert("L"))
        == np.asarray(ramp)
    ).all()
    color = noise()
    assert (np.asarray(decode(save(color, icc_profile=linear), LIMIT)) == np.asarray(color)).all()


def test_ycck_jpeg_has_the_colors_it_means() -> None:
    rgb = noise(size=(32, 32))
    # Stored are the inks as YCbCr, and black inverted (Adobe Technical Note 5116); Pillow inverts
    # all that it writes.
    planes = [*ImageOps.invert(rgb).convert("YCbCr").split(), Image.new("L", rgb.size, 255)]
    inverted = Image.merge("CMYK", [plane.point(lambda value: 255 - value) for plane in planes])
    content = bytearray(save(inverted, "JPEG", quality=100, subsampling=0))
    content[content.index(b"Adobe") + 11] = 2
    assert abs(np.asarray(decode(bytes(content), LIMIT)).astype(int) - np.asarray(rgb)).max() <= 8


def test_a_cmyk_profile_decides_the_colors() -> None:
    inks = np.array([[c, m, y, k] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)])
    lightness = (255 * (1 - inks[:, 3]) * (1 - inks[:, :3].sum(1) / 4)).astype(
        np.uint8
    )  # an invented press: gray inks
    lab = np.stack([lightness, np.full(16, 128), np.full(16, 128)], -1).astype(np.uint8).tobytes()
    straight = bytes(range(256))
    table = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    )
    profile = bytearray(
        icc(
            b"CMYK", {b"A2B0": table + straight * 4 + lab + straight * 3, b"wtpt": xyz(np.ones(3))}
        )
    )
    profile[12:16], profile[20:24] = b"prtr", b"Lab "
    magenta = save(Image.new("CMYK", (8, 8), (0, 255, 0, 0)), "TIFF", icc_profile=bytes(profile))
    red, green, blue = decode(magenta, LIMIT).getpixel((0, 0))  # type: ignore[misc]
    assert max(red, green, blue) - min(red, green, blue) <= 2
    assert 150 < green < 220
    assert (
        decode(save(Image.new("CMYK", (8, 8), (0, 255, 0, 0)), "TIFF"), LIMIT).getpixel((0, 0))[1]
        < 10
    )  # type: ignore[index]


def test_damage_that_decodes_to_gray_is_refused() -> None:
    for kind, options in (("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})):
        content = save(Image.effect_noise((96, 96), 90), kind, **options)
        half = len(content) // 2
        for broken in (content[:half] + bytes(len(content) - half), content[:half], content[:-2]):
            with pytest.raises(BadImage, match="damaged image"):
                decode(broken, LIMIT)
    repaired = (content := save(Image.effect_noise((96, 96), 90), "JPEG"))[
        : len(content) // 2
    ] + b"\xff\xd9"
    assert (
        Image.open(io.BytesIO(repaired)).convert("RGB").getpixel((90, 90)) == (128,) * 3
    )  # what Pillow makes of it
    with pytest.raises(BadImage, match="truncated"):
        decode(repaired, LIMIT)


def test_what_follows_the_end_of_a_jpeg_does_not_matter() -> None:
    content = save(noise(), "JPEG")
    for tail in (b"trailer", bytes(5000), content):
        assert (
            np.asarray(decode(content + tail, LIMIT)) == np.asarray(decode(content, LIMIT))
        ).all()


def test_measuring_decodes_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    late = save(noise(), "PNG")
    late = late[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + late[-12:]
    contents = [
        save(noise(), kind, exif=exif) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF")
    ] + [late]
    assert {decode(content, LIMIT).size for content in contents} == {(16, 24)}
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    assert {measure(content, LIMIT) for content in contents} == {(16, 24)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC: convert"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw file: develop"),
        (b"FUJIFILMCCD-RAW 0201", "raw file"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns=''/>", "SVG drawing: render"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404", "failed download"),
        (b"\0\1\2\3", ""),
    ],
)
def test_foreign_files_are_named_with_the_remedy(content: bytes, words: str) -> None:
    assert words in describe(content)
    with pytest.raises(BadImage, match="not an image that is read") as caught:
        decode(content, LIMIT)
    assert words in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "int8", "int16", "int32", "uint32"])
def test_values_without_a_defined_white_are_refused(dtype: str) -> None:
    with pytest.raises(BadImage, match="no defined white"):
        decode(tiff(np.ones((4, 4), dtype)), LIMIT)


def test_the_preview_in_a_raw_file_is_no_image() -> None:
    with pytest.raises(BadImage, match="raw file"):
        measure(tiff(np.zeros((4, 4), np.uint8), subfiletype=1), LIMIT)
    with pytest.raises(BadImage, match="plane"):
        decode(
            tiff(np.zeros((3, 4, 4), np.uint16), photometric="rgb", planarconfig="separate"), LIMIT
        )


def test_a_background_is_a_name_or_a_hex_color() -> None:
    for good in ("white", "Black", "#7f7f7F"):
        check_color(good)
    for bad, words in (
        ("whit", "Did you mean 'white'"),
        ("#fff", "#rrggbb"),
        ("rgb(1,2,3)", "#rrggbb"),
        ("", "#rrggbb"),
    ):
        with pytest.raises(UserError, match=words):
            check_color(bad)
