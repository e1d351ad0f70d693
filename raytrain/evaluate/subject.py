"""What a scorer sees: images with their prompts, the training images, and the judging models,
each loaded once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor, nn

from raytrain import aesthetic, storage
from raytrain.clip import ClipModel
from raytrain.config import Config
from raytrain.config.data import DataConfig
from raytrain.data.files.fetch import Fetcher
from raytrain.data.files.location import absolute, child, write
from raytrain.data.image.image import BadImage, decode
from raytrain.data.loading.read import Dataset
from raytrain.data.store import schema
from raytrain.errors import UserError


class Judges:
    """The models and training images that every subject of one config shares;
    each loads on first use."""

    def __init__(self, config: Config, device: torch.device | str | None = None) -> None:
        """Take the config; `device` defaults to the GPU where there is one."""
        self.config = config
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def clip(self) -> ClipModel:
        """The CLIP model of `evaluate.clip`."""
        return ClipModel(self.config.evaluate.clip, self.device)

    @cached_property
    def aesthetic(self) -> nn.Module:
        """The aesthetic predictor of `evaluate.aesthetic`."""
        return aesthetic.load(self.config.evaluate.aesthetic).to(self.device)

    @cached_property
    def references(self) -> list[Image.Image]:
        """Training images, `evaluate.max_references` at most, drawn with the run's seed."""
        return training_images(self.config)

    @cached_property
    def reference_embeddings(self) -> Tensor:
        """Unit CLIP embeddings (R, D) of the training images."""
        return self.clip.embed_images(self.references)


@dataclass
class Subject:
    """One model under judgement: image i was drawn from prompt i."""

    config: Config
    images: Sequence[Image.Image]
    prompts: Sequence[str]
    judges: Judges
    held_out: Callable[[], list[float]] | None = None
    """Losses of the held-out images, one each; None where there is no denoiser at hand."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise ValueError(
                f"a subject needs one prompt an image, got {len(self.images)} and "
                f"{len(self.prompts)}"
            )

    @property
    def references(self) -> list[Image.Image]:
        """Training images to compare with."""
        return self.judges.references

    @property
    def reference_embeddings(self) -> Tensor:
        """Unit CLIP embeddings (R, D) of the training images."""
        return self.judges.reference_embeddings

    @cached_property
    def image_embeddings(self) -> Tensor:
        """Unit CLIP embeddings (N, D) of the images."""
        return self.judges.clip.embed_images(self.images)

    @cached_property
    def prompt_embeddings(self) -> Tensor:
        """Unit CLIP embeddings (N, D) of the prompts, one an image."""
        unique = list(dict.fromkeys(self.prompts))
        rows = {prompt: row for row, prompt in enumerate(unique)}
        return self.judges.clip.embed_texts(unique)[[rows[prompt] for prompt in self.prompts]]


def training_images(config: Config) -> list[Image.Image]:
    """Open the dataset's training images, `evaluate.max_references` at most,
    chosen by the run's seed.

    An image that is no longer where it was is passed over; UserError when none can be opened.
    """
    if not storage.exists(storage.join(config.dataset, schema.MANIFEST)):
        return []
    dataset = Dataset.of(config)
    places = sorted(
        {(row["path"], row["location"]) for row in dataset.details("train", ("path", "location"))}
    )
    random.Random(config.seed).shuffle(places)
    fetcher = Fetcher(config.data.fetch)
    images: list[Image.Image] = []
    for path, location in places:
        if len(images) == config.evaluate.max_references:
            break
        found = _open(
            fetcher, [location, write(child(absolute(config.data.source), path))], config.data
        )
        images += [found] if found else []
    if places and not images:
        raise UserError(
            "Scoring against the training images needs the images themselves: none of the "
            f"{len(places)} of {config.dataset!r} can be opened, for instance {places[0][0]!r}. "
            "Correct data.source or take 'clip_image' out of evaluate.scorers."
        )
    return images


def _open(fetcher: Fetcher, locations: Sequence[str], data: DataConfig) -> Image.Image | None:
    for location in locations:
        try:
            return decode(fetcher.read(location), data.max_pixels, data.background)
        except (OSError, BadImage):
            continue
    return None
