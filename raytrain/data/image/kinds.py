"""What a file is by its first bytes, where it is not read as an image,
and what the user can do about it. Pure."""

from __future__ import annotations

RAW = "a camera's raw file: develop it and save it as TIFF, PNG or JPEG"
_CONVERT = "convert it to PNG or JPEG"
_STARTS = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
"""First bytes of the formats that are read."""
_OTHERS = (
    (b"IIRO", RAW), (b"IIRS", RAW), (b"IIU\0", RAW), (b"FUJIFILMCCD-RAW", RAW), (b"FOVb", RAW),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file: run `git lfs pull`"),
    (b"%PDF", "a PDF document: export its pages as PNG"),
    (b"%!PS", "a PostScript drawing: render it to PNG"),
    (b"8BPS", "a Photoshop document: export it as PNG"),
    (b"\0\0\0\x0cjP  ", f"JPEG 2000: {_CONVERT}"), (b"\xff\x4f\xff\x51", f"JPEG 2000: {_CONVERT}"),
    (b"\0\0\0\x0cJXL ", f"JPEG XL: {_CONVERT}"), (b"\xff\x0a", f"JPEG XL: {_CONVERT}"),
    (b"\x76\x2f\x31\x01", f"OpenEXR, which has no defined white: tone-map it and {_CONVERT}"),
    (b"#?RADIANCE", f"Radiance HDR, which has no defined white: tone-map it and {_CONVERT}"),
    (b"\0\0\1\0", f"an icon: {_CONVERT}"), (b"qoif", f"QOI: {_CONVERT}"),
    (b"DDS ", f"a DDS texture: {_CONVERT}"), (b"PK\3\4", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"), (b"7z\xbc\xaf\x27\x1c",
    "a 7-Zip archive: unpack it"), (b"Rar!", "a RAR archive: unpack it"),
    (b"\x7fELF", "a program"), (b"MZ", "a program"),
    (b"\x1aE\xdf\xa3", "a video: extract its frames"), (b"SQLite format 3", "a database"),
)  # fmt: skip
_BRANDS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"hevx": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
}


def own(content: bytes) -> str:
    """Return which of the formats that are read a file claims to be; empty for none.

    >>> own(b"GIF89a")
    'GIF'
    """
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WebP"
    if content[4:8] == b"ftyp":
        return "AVIF" if {b"avif", b"avis"} & set(_brands(content)) else ""
    return next((name for start, name in _STARTS if content.startswith(start)), "")


def describe(content: bytes) -> str:
    """Return what a file of another format is, and the remedy where there is one;
    empty for bytes that tell nothing.

    >>> describe(b"%PDF-1.7 ...")
    'a PDF document: export its pages as PNG'
    """
    if content[4:8] == b"ftyp":
        return _media(content)
    for start, what in _OTHERS:
        if content.startswith(start):
            return what
    return _text(content)


def _media(content: bytes) -> str:
    """Name a file of the ISO base media format (ISO/IEC 14496-12) by its brands."""
    brands = _brands(content)
    if b"crx " in brands:
        return RAW
    for brand in brands:
        if brand in _BRANDS:
            return f"{_BRANDS[brand]}: {_CONVERT}"
    if brands[0] in (b"mif1", b"msf1"):
        return f"HEIF: {_CONVERT}"
    return "a video: extract its frames"


def _brands(content: bytes) -> list[bytes]:
    length = int.from_bytes(content[:4], "big")
    return [
        content[8:12],
        *(content[place : place + 4] for place in range(16, min(length, 256), 4)),
    ]


def _text(content: bytes) -> str:
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (
        start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in start
    ):
        return "an SVG drawing: render it to PNG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, as a failed download leaves it: download the image again"
    if start.startswith((b"<", b"{", b"[")):
        return "a text file, as a failed download leaves it: download the image again"
    try:
        return "a text file" if start and content[:1024].decode("ascii").isprintable() else ""
    except UnicodeDecodeError:
        return ""
