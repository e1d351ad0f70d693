"""Records with a picture's address and captions: which fields hold them, and what they say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

FILES = ("path", "file", "file_name", "filename", "url", "image", "image_path", "image_file", "img", "img_path")
CAPTIONS = ("text", "caption", "prompt", "captions", "texts")
MASKS = ("mask", "mask_path", "mask_file_name")
CONTROLS = ("conditioning_image", "control", "control_path", "conditioning_image_file_name")


def field(names: Iterable[str], wanted: Collection[str]) -> str | None:
    """Return the first wanted field that is among the names, whatever its case."""
    by_name = {name.lower(): name for name in reversed(list(names))}
    return next((by_name[name] for name in wanted if name in by_name), None)


def value(record: Mapping[str, Any], wanted: Collection[str]) -> Any:
    """Return the value of the first wanted field that is there and not None; None without one."""
    filled = [name for name, content in record.items() if content is not None]
    name = field(filled, wanted)
    return record[name] if name is not None else None


def captions(content: Any) -> tuple[str, ...]:
    """Return the captions of a field: none, one text, or a list of texts. ValueError for anything else."""
    texts = [] if content is None else content if isinstance(content, list | tuple) else [content]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a caption must be text, got {text!r:.80}")
        text.encode()  # a lone surrogate, which JSON can spell, is a UnicodeEncodeError: a ValueError
    return tuple(text for text in texts if text.strip())
