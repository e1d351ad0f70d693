"""Images side by side on one sheet, with labels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from raytrain import storage
from raytrain.sampling.prompts import Prompt


def by_prompt(
    prompts: Sequence[Prompt], images: Sequence[Image.Image], each: int
) -> list[list[Image.Image]]:
    """Return for each text its control image, where it has one, and its `each` images."""
    return [
        [*prompts[start].inputs.values(), *images[start : start + each]]
        for start in range(0, len(images), each)
    ]


def grid(
    rows: Sequence[Sequence[Image.Image]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Lay images out in rows and columns, each row and column with its label;
    smaller ones lie in the middle of their place."""
    tiles = [image.size for row in rows for image in row]
    zoom = max(1, -(-144 // max(width for width, _ in tiles)))
    width, height = (zoom * max(side) for side in zip(*tiles, strict=True))
    font = ImageFont.load_default(13)
    gap, left = 6, max((int(font.getlength(label)) + 12 for label in row_labels), default=0)
    wrapped = [_wrap(label, width, font) for label in column_labels]
    lines = max((text.count("\n") + 1 for text in wrapped), default=0)
    top = lines * 16 + (8 if wrapped else 0)
    columns = max(len(row) for row in rows)
    whole = (left + columns * (width + gap) + gap, top + len(rows) * (height + gap) + gap)
    sheet = Image.new("RGB", whole, "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(wrapped):
        draw.multiline_text(
            (left + gap + column * (width + gap), 4), text, fill="black", font=font
        )
    for line, row in enumerate(rows):
        y = top + gap + line * (height + gap)
        if row_labels:
            draw.text((8, y + height // 2 - 8), row_labels[line], fill="black", font=font)
        for column, image in enumerate(row):
            tile = image.convert("RGB").resize(
                (image.width * zoom, image.height * zoom),
                Image.Resampling.NEAREST if zoom > 1 else None,
            )
            x = left + gap + column * (width + gap)
            sheet.paste(tile, (x + (width - tile.width) // 2, y + (height - tile.height) // 2))
    return sheet


def save_image(image: Image.Image, uri: str) -> None:
    """Write an image as PNG, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    storage.write_bytes(uri, buffer.getvalue())


def _wrap(text: str, width: int, font: Any) -> str:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return "\n".join([*lines, line])
