"""What the images of a dataset have in common, described once by a language model, for the
rewriter of its captions."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from PIL import Image, ImageOps

from raytrain import plugins, storage
from raytrain.config.data import DataConfig
from raytrain.data.image.image import BadImage
from raytrain.data.image.opening import opened
from raytrain.data.store import tables

MOST, LEAST = 50, 3
"""Images that are described at most, those of the smallest hashes, and at least."""
SIDE, ACROSS = 256, 4
"""Pixels of an image on a contact sheet, and images along its side."""
_CHOSEN = f"SELECT * FROM images WHERE len(captions) > 0 ORDER BY id LIMIT {MOST}"


def described(data: DataConfig, images: str, annotations: str) -> dict[str, str]:
    """Return {"concept": words, "note": sentence}, both "" where none is asked for.

    A description is kept with its model and instruction, and asked for once: images that are
    added change no caption that is there.
    """
    rules = data.captions
    module: Any = plugins.load("data.rewriters", rules.rewriter)
    describer = getattr(module, "describer", lambda _: None)(rules)
    if describer is None:
        return {"concept": "", "note": ""}
    key = hashlib.sha256(describer.version.encode()).digest()
    with tables.database(
        images=(images, tables.IMAGES), annotations=(annotations, tables.ANNOTATIONS)
    ) as sql:
        known = sql.execute("SELECT texts FROM annotations WHERE key = $key", {"key": key})
        if found := known.fetchall():
            return {"concept": found[0][0][0], "note": ""}
        lines = sql.sql(_CHOSEN).to_arrow_table().to_pylist()
    if len(lines) < LEAST:
        return {
            "concept": "",
            "note": f"{len(lines)} captions are too few to describe what they have in common "
            f"(at least {LEAST}); data.captions.rewriter_options.concept says it",
        }
    shown = sheets(lines, data) if describer.images else []
    concept = describer.describe([line["captions"][0] for line in lines], shown)
    maker = json.dumps({"kind": "concept", "name": rules.rewriter, "version": describer.version})
    row = {"key": key, "id": bytes(32), "maker": maker, "texts": [concept]}
    tables.write_rows(storage.join(annotations, f"{key.hex()}.parquet"), [row], tables.ANNOTATIONS)
    return {"concept": concept, "note": f"the images were described as {concept!r}"}


def told(data: DataConfig, concept: str) -> DataConfig:
    """Return [data] whose rewriter is told of what the images have in common, if anything."""
    if not concept:
        return data
    options = {**data.captions.rewriter_options, "concept": concept}
    captions = data.captions.model_copy(update={"rewriter_options": options})
    return data.model_copy(update={"captions": captions})


def sheets(lines: list[dict[str, Any]], data: DataConfig) -> list[Image.Image]:
    """Return contact sheets of images, each padded to a square; those that cannot be opened are
    left out, which another stage rejects."""
    found: list[Image.Image] = []
    for line in lines:
        entry = opened(line, data, alpha=False, mask=False, control=False)
        if not isinstance(entry, BadImage):
            found.append(ImageOps.pad(entry.image.convert("RGB"), (SIDE, SIDE)))
    return [_sheet(found[at : at + ACROSS**2]) for at in range(0, len(found), ACROSS**2)]


def _sheet(images: list[Image.Image]) -> Image.Image:
    across = min(ACROSS, len(images))
    sheet = Image.new("RGB", (across * SIDE, math.ceil(len(images) / across) * SIDE), "white")
    for number, image in enumerate(images):
        sheet.paste(image, (number % across * SIDE, number // across * SIDE))
    return sheet
