"""Tags of a WD14 tagger: `SmilingWolf/wd-eva02-large-tagger-v3`, for instance,
a `model.onnx` with its `selected_tags.csv`.

Tags read, from the left: rating (where wanted), character, copyright, artist, general, meta; the
likeliest of each first. Needs the extra `tagger`. Input as the taggers were trained: padded with
white to a square, BGR, 0 to 255.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image
from pydantic import Field, field_validator

from raytrain import mirror
from raytrain.config.data import CaptionConfig
from raytrain.data.captioners import Captioner, _local
from raytrain.data.image.image import BadImage
from raytrain.data.store.schema import content_key
from raytrain.errors import UserError
from raytrain.table import Table

PROMPT: str | None = None
NEEDS_PATH = True
IGNORES = ("max_new_tokens", "num_beams")
MODEL, TAGS = "model.onnx", "selected_tags.csv"
Category = Literal["character", "copyright", "artist", "general", "meta"]
CATEGORIES: dict[int, Category] = {
    4: "character",
    3: "copyright",
    1: "artist",
    0: "general",
    5: "meta",
}
"""Danbooru's numbers of them, in the order they are written in."""
RATING = 9
RATINGS = {
    "general": "safe",
    "sensitive": "questionable",
    "questionable": "nsfw",
    "explicit": "nsfw",
}
THRESHOLDS: dict[Category, float] = {"general": 0.35, "character": 0.75}
KAOMOJI = frozenset(
    ("0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9",
    ">_o", "@_@", "^_^", "o_o", "u_u",
     "x_x", "|_|", "||_||")
)  # fmt: skip
"""Tags that are faces: their underscores are no spaces."""


class Options(Table):
    """`[data.captions] options` of the tagger."""

    thresholds: dict[Category, float] = Field(default_factory=dict)
    """Minimum probability of a tag, by category; default: 0.35, for characters 0.75."""
    rating: bool = False
    """Put safe, questionable or nsfw first."""
    keep_underscores: bool = False

    @field_validator("thresholds")
    @classmethod
    def _are_probabilities(cls, value: dict[Category, float]) -> dict[Category, float]:
        for name, least in value.items():
            if not 0 <= least <= 1:
                raise ValueError(f"thresholds are probabilities from 0 to 1, got {name} = {least}")
        return value


class Tag(NamedTuple):
    """One output of the model."""

    text: str
    category: int


def version(config: CaptionConfig) -> str:
    """Return the hash over weights, tags and settings."""
    if config.prompt:
        raise UserError(
            "captioner 'wd14' cannot be asked anything, got data.captions.prompt = "
            f"{config.prompt!r}, which would have no effect. Remove it."
        )
    return content_key(
        "wd14", _local.weights(config), config.separator, Options(**config.options).model_dump()
    )


def load(config: CaptionConfig, device: str = "") -> Captioner:
    """Load the tagger."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise UserError(
            "captioner 'wd14' needs onnxruntime, which is not installed. Install the extra: pip "
            "install 'raytrain[tagger]'."
        ) from error
    root = _folder(config)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = _threads()
    wanted = (
        ["CPUExecutionProvider"]
        if device == "cpu"
        else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(root / MODEL), settings, providers=providers)
    except Exception as error:  # onnxruntime's errors share no other base
        raise UserError(
            f"{str(root / MODEL)!r} is no ONNX model: {str(error).splitlines()[0]} "
            "Download it again."
        ) from error
    return _Tagger(
        config, session, _read_tags(root / TAGS, Options(**config.options).keep_underscores)
    )


def tiny(folder: str, seed: int = 0) -> None:
    """Write a tagger whose tags are likely where random pixels are bright."""
    from raytrain.data.captioners import _tiny_tagger

    _tiny_tagger.write(folder, seed)


def spoken(name: str) -> str:
    """Return a tag as it is written in a caption: underscores are spaces, but for faces."""
    return name if name in KAOMOJI else name.replace("_", " ")


def choose(tags: list[Tag], likely: list[float], options: Options) -> list[str]:
    """Return the tags that reach their category's threshold, categories in order,
    the likeliest of each first."""
    chosen = []
    if options.rating:
        ratings = [
            (share, tag.text)
            for tag, share in zip(tags, likely, strict=True)
            if tag.category == RATING
        ]
        chosen = [RATINGS.get(text, text) for _, text in sorted(ratings, reverse=True)[:1]]
    for number, category in CATEGORIES.items():
        least = options.thresholds.get(category, THRESHOLDS.get(category, THRESHOLDS["general"]))
        found = [
            (-share, place, tag.text)
            for place, (tag, share) in enumerate(zip(tags, likely, strict=True))
            if tag.category == number and share >= least
        ]
        chosen += [text for _, _, text in sorted(found)]
    return chosen


class _Tagger:
    def __init__(self, config: CaptionConfig, session: Any, tags: list[Tag]) -> None:
        self.options, self.session, self.tags = Options(**config.options), session, tags
        mark = config.separator.strip()
        self.joint = f"{mark} " if mark in (",", ";") else f" {mark} " if mark else " "
        [asked], self.answer = session.get_inputs(), session.get_outputs()[0].name
        self.name, shape = asked.name, asked.shape
        if (
            len(shape) != 4
            or shape[3] != 3
            or not isinstance(shape[1], int)
            or shape[1] != shape[2]
        ):
            raise UserError(
                f"{config.path!r} is no WD14 tagger: its input is {shape}, not [images, side, "
                "side, 3]. Correct data.captions.path."
            )
        self.side = shape[1]
        self.batch = shape[0] if isinstance(shape[0], int) else 0
        """Images of one call, where the model takes a fixed number."""
        columns = session.get_outputs()[0].shape[-1]
        if isinstance(columns, int) and columns != len(tags):
            raise UserError(
                f"{config.path!r} does not fit together: {MODEL} gives {columns} tags and {TAGS} "
                f"names {len(tags)}, so every caption would be wrong. Get both files from the "
                "same release."
            )

    def caption(self, images: list[Image.Image]) -> list[str | BadImage]:
        """Return the tags of each image, joined by the separator."""
        import numpy as np

        ready = [self._pixels(image) for image in images]
        good = [pixels for pixels in ready if not isinstance(pixels, BadImage)]
        size = self.batch or max(1, len(good))
        likely: list[Any] = []
        for start in range(0, len(good), size):
            part = good[start : start + size]
            part += part[-1:] * (size - len(part))
            likely += list(self.session.run([self.answer], {self.name: np.stack(part)})[0])
        answers = iter(likely)
        return [
            pixels if isinstance(pixels, BadImage) else self._text(next(answers))
            for pixels in ready
        ]

    def _text(self, likely: Any) -> str:
        return self.joint.join(choose(self.tags, [float(share) for share in likely], self.options))

    def _pixels(self, image: Image.Image) -> Any:
        """Return (side, side, 3) float32, BGR, 0 to 255, on white."""
        import numpy as np

        try:
            layers = image.convert("RGBA")
            square = Image.new("RGBA", (max(layers.size),) * 2, "white")
            square.alpha_composite(
                layers, tuple((max(layers.size) - side) // 2 for side in layers.size)
            )
            small = square.convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC)
        except (OSError, ValueError) as error:
            return BadImage(f"cannot be captioned: {error}")
        return np.ascontiguousarray(np.asarray(small, dtype=np.float32)[:, :, ::-1])


def _folder(config: CaptionConfig) -> Path:
    root = Path(mirror.local(config.path))
    if not root.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            root = Path(
                snapshot_download(
                    config.path, revision=config.revision, allow_patterns=[MODEL, TAGS]
                )
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"data.captions.path {config.path!r} is no folder here, and the hub could not "
                f"give it: {str(error).splitlines()[0]} Give the folder of a WD14 tagger, or make "
                "the hub reachable."
            ) from error
    missing = [name for name in (MODEL, TAGS) if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"A WD14 tagger is a folder with {MODEL} and {TAGS}; {config.path!r} lacks "
            f"{' and '.join(missing)}. Correct data.captions.path."
        )
    return root


def _read_tags(file: Path, keep_underscores: bool) -> list[Tag]:
    with file.open(encoding="utf-8", newline="") as stream:
        try:
            rows = [(row["name"], int(row["category"])) for row in csv.DictReader(stream)]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{str(file)!r} must have the columns name and category (a number): {error}. "
                "Download it again."
            ) from error
    return [Tag(name if keep_underscores else spoken(name), category) for name, category in rows]


def _threads() -> int:
    import torch

    return torch.get_num_threads()
