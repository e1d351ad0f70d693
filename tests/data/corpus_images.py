"""Contents of the corpus: bytes that are no usable image, with words of the reason."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.data.test_decode import chunk, tiff
from tests.data.test_image import save

PNG = b"\x89PNG\r\n\x1a\n"
END = chunk(b"IEND", b"")
SIZE = (40, 32)
MAGENTA = (255, 0, 255)
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}), "jpg": ("JPEG", {}), "progressive.jpg": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}), "lossless.webp": ("WEBP", {"lossless": True}), "gif": ("GIF", {}),
    "bmp": ("BMP", {}), "tif": ("TIFF", {}), "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "avif": ("AVIF", {}),
}  # fmt: skip
"""Extension -> Pillow's format and options."""


class Bad(NamedTuple):
    """A file to write, and words its reason must hold."""

    name: str
    content: bytes
    reason: str


def bad() -> list[Bad]:
    """Return every file whose bytes are no usable image."""
    groups = (
        _cuts(),
        _gray_ends(),
        _pngs(),
        _jpegs(),
        _gifs(),
        _bmps(),
        _tiffs(),
        _webps(),
        _foreign(),
    )
    return [file for group in groups for file in group]


def image(seed: int, size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    """Return noise, a function of its seed."""
    values = np.random.default_rng(seed).integers(
        0, 256, (size[1], size[0], len(mode)), dtype=np.uint8
    )
    return Image.fromarray(values.squeeze() if mode == "L" else values, mode)


def _cuts() -> Iterator[Bad]:
    for extension, (kind, options) in FORMATS.items():
        content = save(image(1), kind, **options)
        places = {
            "4": 4,
            "20": 20,
            "a-third": len(content) // 3,
            "two-thirds": len(content) * 2 // 3,
        }
        if extension != "gif":  # a GIF without its last byte has lost no pixel
            places["near-the-end"] = len(content) - 9
            places["the-last-byte"] = len(content) - 1
        for place, length in places.items():
            reason = (
                "not an image" if length == 4 and extension[-4:] in ("webp", "avif") else "damaged"
            )
            yield Bad(f"cut-at-{place}.{extension}", content[:length], reason)


def _gray_ends() -> Iterator[Bad]:
    for extension in ("png", "jpg", "progressive.jpg", "gif"):
        kind, options = FORMATS[extension]
        content = save(image(2), kind, **options)
        half = len(content) // 2
        yield Bad(
            f"zeros-from-the-middle.{extension}",
            content[:half] + bytes(len(content) - half),
            "damaged",
        )
    content = save(image(3), "JPEG")
    yield Bad("cut-and-closed.jpg", content[: len(content) // 2] + b"\xff\xd9", "truncated")
    yield Bad("no-end.jpg", content[:-2] + bytes(500), "end of the JPEG")


def _header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    return PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))


def _pngs() -> Iterator[Bad]:
    whole, bomb = save(image(4)), zlib.compress(bytes(20_000_000))
    yield Bad(
        "bomb-60000.png",
        _header(60000, 60000, 1, 0) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + END,
        "max_pixels",
    )
    yield Bad(
        "bomb-zTXt.png", whole[:33] + chunk(b"zTXt", b"a\0\0" + bomb) + whole[33:], "too large"
    )
    yield Bad(
        "bomb-iTXt.png",
        whole[:33] + chunk(b"iTXt", b"a\0\1\0\0\0" + bomb) + whole[33:],
        "too large",
    )
    yield Bad(
        "bomb-iCCP.png", whole[:33] + chunk(b"iCCP", b"a\0\0" + bomb) + whole[33:], "too large"
    )
    for name, place in (("IHDR", 20), ("IDAT", 60)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        yield Bad(f"flipped-bit-{name}.png", bytes(flipped), "damaged")
    palette = bytearray(save(image(4).convert("P")))
    palette[palette.index(b"PLTE") + 9] ^= 1
    yield Bad("flipped-bit-PLTE.png", bytes(palette), "damaged")
    for name, header in (
        ("0x0", _header(0, 0)),
        ("0x9", _header(0, 9)),
        ("depth-3", _header(9, 9, 3)),
        ("color-5", _header(9, 9, 8, 5)),
        ("2147483647x1", _header(2**31 - 1, 1)),
    ):
        reason = "max_pixels" if "2147483647" in name else "damaged"
        yield Bad(
            f"header-{name}.png", header + chunk(b"IDAT", zlib.compress(bytes(300))) + END, reason
        )
    yield Bad("no-pixels.png", _header(9, 9) + END, "damaged")
    yield Bad(
        "no-zlib.png", _header(9, 9) + chunk(b"IDAT", b"these are no pixels") + END, "damaged"
    )
    yield Bad(
        "few-pixels.png", _header(9, 9) + chunk(b"IDAT", zlib.compress(bytes(50))) + END, "damaged"
    )
    yield Bad(
        "filter-9.png",
        _header(9, 9) + chunk(b"IDAT", zlib.compress((b"\x09" + bytes(27)) * 9)) + END,
        "damaged",
    )
    yield Bad(
        "endless-chunk.png",
        whole[:33] + struct.pack(">I4s", 2**31 - 1, b"IDAT") + whole[41:],
        "truncated",
    )


def _jpegs() -> Iterator[Bad]:
    whole = save(image(5), "JPEG")
    frame = whole.index(b"\xff\xc0")
    for name, height, width in (
        ("0x0", 0, 0),
        ("0x9", 9, 0),
        ("65500x65500", 65500, 65500),
        ("taller", 900, 40),
    ):
        content = whole[: frame + 5] + struct.pack(">HH", height, width) + whole[frame + 9 :]
        yield Bad(f"header-{name}.jpg", content, "max_pixels" if name[0] == "6" else "damaged")
    yield Bad("12-bit.jpg", whole[: frame + 4] + b"\x0c" + whole[frame + 5 :], "damaged")
    yield Bad("no-frame.jpg", whole[:frame] + whole[frame + 19 :], "damaged")
    tables = whole.index(b"\xff\xdb")
    end = tables + 2 + int.from_bytes(whole[tables + 2 : tables + 4], "big")
    yield Bad("no-quantization.jpg", whole[:tables] + whole[end:], "damaged")
    yield Bad("start-and-end.jpg", b"\xff\xd8\xff\xd9", "damaged")
    yield Bad("endless-segment.jpg", b"\xff\xd8\xff\xe1\xff\xff" + whole[2:300], "damaged")


def _gifs() -> Iterator[Bad]:
    whole = save(image(6), "GIF")
    yield Bad("giant-screen.gif", whole[:6] + b"\xff\xff\xff\xff" + whole[10:], "max_pixels")
    yield Bad("no-screen.gif", whole[:6] + bytes(4) + b"\x00\x00\x00" + b";", "damaged")
    yield Bad("no-frames.gif", whole[: 13 + 768] + b";", "damaged")
    yield Bad("header-alone.gif", whole[:13], "damaged")
    data = whole.rindex(b",", 0, 900) + 10
    yield Bad("code-size-99.gif", whole[:data] + b"\x63" + whole[data + 1 :], "damaged")
    yield Bad("no-codes.gif", whole[: data + 1] + b"\0;", "damaged")


def _bmps() -> Iterator[Bad]:
    whole = save(image(7), "BMP")
    fields = {
        "negative-width": (18, -9),
        "overflow-width": (18, 2**31 - 1),
        "overflow-height": (22, 2**31 - 1),
        "least-height": (22, -(2**31)),
        "compression-77": (30, 77),
        "pixels-elsewhere": (10, 2**30),
        "header-size-9": (14, 9),
        "no-width": (18, 0),
    }
    for name, (place, value) in fields.items():
        reason = "max_pixels" if place in (18, 22) and value else "damaged"
        yield Bad(
            f"{name}.bmp", whole[:place] + struct.pack("<i", value) + whole[place + 4 :], reason
        )
    yield Bad("depth-7.bmp", whole[:28] + b"\x07\0" + whole[30:], "damaged")
    yield Bad("header-alone.bmp", whole[:54], "damaged")


def _tiffs() -> Iterator[Bad]:
    for dtype in ("float32", "int8", "int16", "int32", "uint32"):
        yield Bad(f"{dtype}.tif", tiff(np.ones((8, 8), dtype)), "no defined white")
    for dtype in ("float16", "float64", "complex64", "uint64"):
        yield Bad(f"{dtype}.tif", tiff(np.ones((8, 8), dtype)), "unknown variant")
    yield Bad(
        "float-colors.tif",
        tiff(np.ones((8, 8, 3), "float32"), photometric="rgb"),
        "unknown variant",
    )
    planes = tiff(np.zeros((3, 8, 8), "uint16"), photometric="rgb", planarconfig="separate")
    yield Bad("separate-planes.tif", planes, "plane")
    yield Bad(
        "preview.nef.tif",
        tiff(np.zeros((8, 8, 3), "uint8"), photometric="rgb", subfiletype=1),
        "raw file",
    )
    version = [(50706, 1, 4, b"\1\4\0\0", True)]
    yield Bad(
        "dng.tif",
        tiff(np.zeros((8, 8, 3), "uint8"), photometric="rgb", extratags=version),
        "raw file",
    )
    tags = {
        "no-width": (256, 0),
        "width-100000000": (256, 10**8),
        "compression-60000": (259, 60000),
        "photometric-99": (262, 99),
        "pixels-elsewhere": (273, 2**31),
        "samples-9000": (277, 9000),
        "predictor-7": (317, 7),
    }
    for name, (tag, value) in tags.items():
        yield Bad(
            f"{name}.tif",
            _with_tag(tag, value=value),
            "max_pixels" if "1000" in name else "damaged",
        )
    yield Bad("a-billion-strips.tif", _with_tag(273, count=10**9), "damaged")
    yield Bad("directory-elsewhere.tif", b"II*\0" + struct.pack("<I", 2**31), "unknown variant")


def _with_tag(tag: int, **change: int) -> bytes:
    """Change the value or the count of one tag of a compressed little-endian TIFF."""
    content = bytearray(
        tiff(np.asarray(image(8)), photometric="rgb", compression="zlib", predictor=True)
    )
    entry = int.from_bytes(content[4:8], "little") + 2
    while int.from_bytes(content[entry : entry + 2], "little") != tag:
        entry += 12
    if "count" in change:
        content[entry + 4 : entry + 8] = struct.pack("<I", change["count"])
    else:
        content[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, change["value"])
    return bytes(content)


def _webps() -> Iterator[Bad]:
    bomb = b"WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\x3f\0" * 2
    yield Bad("bomb-16384.webp", b"RIFF" + struct.pack("<I", len(bomb)) + bomb, "damaged")
    whole = save(image(9), "WEBP")
    yield Bad(
        "size-beyond-the-end.webp", whole[:4] + struct.pack("<I", 2**30) + whole[8:], "damaged"
    )
    yield Bad("no-chunks.webp", b"RIFF\4\0\0\0WEBP", "damaged")
    yield Bad("no-boxes.avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "damaged")


def _foreign() -> Iterator[Bad]:
    contents = {
        "text": (b"hello, I am no image", "text file"),
        "page": (b"<!DOCTYPE html>\n<html>404", "failed download"),
        "answer": (b'{"error": "not found"}', "failed download"),
        "denied": (b"<?xml version='1.0'?><Error/>", "download"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        "pdf": (b"%PDF-1.7\n", "PDF"), "postscript": (b"%!PS-Adobe-3.0\n", "PostScript"),
        "psd": (b"8BPS\0\1" + bytes(20), "Photoshop"), "zip": (b"PK\3\4" + bytes(26), "unpack"),
        "gzip": (b"\x1f\x8b\x08" + bytes(15), "unpack"),
        "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(26), "unpack"), "rar": (b"Rar!\x1a\7\1\0", "unpack"),
        "program": (b"\x7fELF\2\1\1" + bytes(57), "program"),
        "exe": (b"MZ" + bytes(62), "program"), "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "HEIC"), "heif": (b"\0\0\0\x14ftypmif1\0\0\0\0mif1", "HEIF"),
        "cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw file"),
        "raf": (b"FUJIFILMCCD-RAW 0201", "raw file"), "orf": (b"IIRO\x08\0\0\0", "raw file"),
        "rw2": (b"IIU\0\x18\0\0\0", "raw file"), "x3f": (b"FOVb\0\0\2\0", "raw file"),
        "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), "jxl": (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        "exr": (b"\x76\x2f\x31\x01\2\0\0\0", "OpenEXR"), "hdr": (b"#?RADIANCE\n", "Radiance"),
        "icon": (b"\0\0\1\0\1\0\x10\x10", "icon"), "qoi": (b"qoif\0\0\0\1", "QOI"),
        "dds": (b"DDS " + bytes(124), "DDS"), "mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42",
        "video"), "mkv": (b"\x1aE\xdf\xa3\1", "video"),
        "sqlite": (b"SQLite format 3\0", "database"), "zeros": (bytes(5000), "not an image"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "ones": (b"\xff" * 5000, "not an image"), "one-byte": (b"\x89", "not an image"),
        "empty": (b"", "empty"), "random": (np.random.default_rng(0).bytes(5000), "not an image"),
        "signature": (PNG, "damaged"), "line-ends": (save(image(10)).replace(b"\r\n", b"\n"),
        "damaged"),
    }  # fmt: skip
    for number, (name, (content, reason)) in enumerate(contents.items()):
        yield Bad(
            f"{name}-within.{('png', 'jpg', 'webp', 'gif', 'bmp', 'tif')[number % 6]}",
            content,
            reason,
        )
