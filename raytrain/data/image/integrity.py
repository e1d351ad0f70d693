"""Damage that Pillow's decoders ignore silently: checksums of a PNG,
and a JPEG whose end is missing. Pure.

A download that stopped in a preallocated file, or a tool that repaired the end of a cut one,
leaves an image that decodes: gray, black or smeared from some line on. A PNG's checksums show it.
A JPEG has none, but a decoder that wants more data than there is says so, as long as no end marker
lets it fill in gray; so `checked` removes that marker.
"""

from __future__ import annotations

import zlib

_PADDING = b"\xff\0" * 32
"""Stuffed ones (ITU-T T.81, B.1.1.5): the decoder looks ahead further than the data it needs."""


def checked(content: bytes) -> bytes:
    """Return bytes that decode to the same pixels, and not at all where the image is incomplete.

    Raises ValueError with the reason where the damage shows without decoding.
    """
    if content.startswith(b"\x89PNG"):
        _check_png(content)
    elif content.startswith(b"\xff\xd8"):
        return _checked_jpeg(content)
    return content


def png_exif(content: bytes) -> bytes:
    """Return the data of a PNG's eXIf chunk, wherever it stands; empty if there is none."""
    place = 8
    while place + 12 <= len(content):
        length, kind = (
            int.from_bytes(content[place : place + 4], "big"),
            content[place + 4 : place + 8],
        )
        if kind == b"eXIf":
            return content[place + 8 : place + 8 + length]
        place += 12 + length
    return b""


def _check_png(content: bytes) -> None:
    """Verify length and checksum of every critical chunk (PNG specification, 5.3 and 5.4)."""
    view, place = memoryview(content), 8
    while place + 12 <= len(content):
        length, kind = (
            int.from_bytes(view[place : place + 4], "big"),
            bytes(view[place + 4 : place + 8]),
        )
        end = place + 8 + length
        known = kind[:1].isupper() and end + 4 <= len(content)
        if known and zlib.crc32(view[place + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            raise ValueError(
                f"the checksum of its {kind.decode('latin-1')!r} chunk at byte {place} is wrong"
            )
        if kind == b"IEND":
            return
        place = end + 4
    raise ValueError("it is truncated: the end of the PNG (IEND) is missing")


def _checked_jpeg(content: bytes) -> bytes:
    """Find the image's end marker; where the image is one sequential scan,
    put padding in the place of the end."""
    place, one_scan, components = 2, False, 0
    while place + 4 <= len(content):
        marker = content[place + 1]
        if content[place] != 0xFF:
            return content  # no marker where one must be: the decoder's to judge
        if marker == 0xFF:
            place += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            place += 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            one_scan, components = (
                marker in (0xC0, 0xC1),
                content[place + 9] if place + 9 < len(content) else 0,
            )
        if marker == 0xDA:
            end = content.find(b"\xff\xd9", place)
            if end < 0:
                raise ValueError("it is truncated: the end of the JPEG (EOI) is missing")
            return (
                content[:end] + _PADDING
                if one_scan and content[place + 4] == components
                else content
            )
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return content
