"""Contents of the corpus: tricky bytes that are usable images."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from tests.data.corpus_images import END, FORMATS, SIZE, image
from tests.data.test_decode import chunk, png16, tiff
from tests.data.test_image import save


class Good(NamedTuple):
    """A file to write, and its size as viewed."""

    name: str
    content: bytes
    size: tuple[int, int] = SIZE


def good() -> list[Good]:
    """Return every tricky file that is an image all the same, each of other content."""
    return [*_plain(), *_depths(), *_animations(), *_metadata()]


def _plain() -> Iterator[Good]:
    for seed, (extension, (kind, options)) in enumerate(FORMATS.items(), 100):
        yield Good(f"plain.{extension}", save(image(seed), kind, **options))
    for seed, (name, kind) in enumerate(
        {
            "jpeg-within.png": "JPEG",
            "png-within.jpg": "PNG",
            "webp-within.gif": "WEBP",
            "gif-within.bmp": "GIF",
            "avif-within.webp": "AVIF",
            "tiff-within.jpg": "TIFF",
            "UPPER.PNG": "PNG",
            "two.dots.Jpeg": "JPEG",
        }.items(),
        120,
    ):
        yield Good(name, save(image(seed), kind))
    for seed, size in enumerate([(1, 1), (1, 300), (300, 1), (2, 2), (17, 31)], 130):
        yield Good(f"size-{size[0]}x{size[1]}.png", save(image(seed, size)), size)
    yield Good("one-color.png", save(Image.new("RGB", SIZE, (12, 34, 56))))


def _depths() -> Iterator[Good]:
    base = image(140)
    yield Good("one-bit.png", save(base.convert("1")))
    yield Good("fax.tif", save(image(141).convert("1"), "TIFF", compression="group4"))
    yield Good("palette.png", save(image(142).convert("P"), transparency=3))
    yield Good("gray.jpg", save(image(143, mode="L"), "JPEG"))
    yield Good("gray-alpha.png", save(image(144, mode="LA")))
    yield Good("alpha.png", save(image(145, mode="RGBA")))
    yield Good(
        "nothing-but-transparent.webp", save(Image.new("RGBA", SIZE), "WEBP", lossless=True)
    )
    yield Good("cmyk.jpg", save(image(146).convert("CMYK"), "JPEG"))
    yield Good("ycck.tif", save(image(147).convert("YCbCr"), "TIFF"))
    yield Good(
        "lab.tif",
        save(
            ImageCms.profileToProfile(
                image(148),
                ImageCms.createProfile("sRGB"),
                ImageCms.createProfile("LAB"),
                outputMode="LAB",
            ),
            "TIFF",
        ),
    )
    for channels in (1, 2, 3, 4):
        values = np.random.default_rng(channels).integers(
            0, 65536, (SIZE[1], SIZE[0], channels), dtype=np.uint16
        )
        yield Good(f"sixteen-bit-{channels}.png", png16(values))
    values = np.random.default_rng(9).integers(0, 65536, (SIZE[1], SIZE[0], 3), dtype=np.uint16)
    yield Good("sixteen-bit.tif", tiff(values, photometric="rgb", compression="zlib"))
    yield Good("big.tif", tiff(np.asarray(image(149)), photometric="rgb", bigtiff=True))


def _animations() -> Iterator[Good]:
    for seed, (extension, kind) in enumerate(
        {"gif": "GIF", "webp": "WEBP", "png": "PNG", "tif": "TIFF", "avif": "AVIF"}.items()
    ):
        frames = [image(160 + 10 * seed + number) for number in range(3)]
        yield Good(
            f"moving.{extension}", save(frames[0], kind, save_all=True, append_images=frames[1:])
        )
    still = save(image(220))
    yield Good("no-frames.apng.png", still[:33] + chunk(b"acTL", bytes(8)) + still[33:])
    yield Good("stereo.jpg", save(image(221), "MPO", save_all=True, append_images=[image(222)]))
    gif = save(image(223), "GIF", save_all=True, append_images=[image(224)])
    yield Good("second-frame-cut.gif", gif[: len(gif) - 300])
    yield Good("no-trailer.gif", save(image(225), "GIF")[:-1])


def _metadata() -> Iterator[Good]:
    for orientation in (0, 3, 6, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        size = SIZE[::-1] if orientation == 6 else SIZE
        for seed, kind in ((240, "JPEG"), (250, "PNG"), (260, "TIFF")):
            if kind != "TIFF" or orientation in (3, 6):
                content = save(image(seed + orientation), kind, exif=exif)
                yield Good(
                    f"orientation-{orientation}.{kind.lower()}".replace("jpeg", "jpg"),
                    content,
                    size,
                )
    yield Good("exif-is-junk.jpg", save(image(270), "JPEG", exif=b"Exif\0\0" + b"junk" * 100))
    yield Good(
        "exif-of-60-kB.jpg",
        save(image(271), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(60_000)),
    )
    yield Good(
        "exif-of-3-MB.webp",
        save(image(272), "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(3_000_000)),
    )
    notes = PngImagePlugin.PngInfo()
    notes.add_text("workflow", "x" * 3_000_000)
    yield Good("text-of-3-MB.png", save(image(273), pnginfo=notes))
    yield Good("profile-is-junk.png", save(image(274), icc_profile=b"no profile"))
    yield Good(
        "profile-of-other-channels.jpg", save(image(275), "JPEG", icc_profile=_profile("LAB"))
    )
    yield Good("profile.png", save(image(276), icc_profile=_profile("sRGB")))
    yield Good("tail.jpg", save(image(277), "JPEG") + b"something behind the image" * 100)
    yield Good("tail.png", save(image(278)) + bytes(1000))
    yield Good("comments.gif", save(image(280), "GIF", comment=b"c" * 5000))
    yield Good("top-down.bmp", _top_down(save(image(281), "BMP")))
    yield Good("chunks-of-100-bytes.png", _rechunked(save(image(279))))


def _profile(space: Any) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def _top_down(content: bytes) -> bytes:
    return content[:22] + struct.pack("<i", -SIZE[1]) + content[26:]


def _rechunked(content: bytes) -> bytes:
    data = b"".join(part for kind, part in _chunks(content) if kind == b"IDAT")
    parts = [chunk(b"IDAT", data[place : place + 100]) for place in range(0, len(data), 100)]
    return content[:33] + b"".join(parts) + END


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    stream = io.BytesIO(content[8:])
    while head := stream.read(8):
        length, kind = struct.unpack(">I4s", head)
        yield kind, stream.read(length)
        stream.read(4)
