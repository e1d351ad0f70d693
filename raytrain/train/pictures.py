"""Validation pictures and scores of one model: the same code in a worker and on an actor beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from raytrain import sample, storage
from raytrain.config import Config
from raytrain.data.read import Dataset
from raytrain.evaluate.run import scores
from raytrain.evaluate.subject import Judges, Subject
from raytrain.model import Model
from raytrain.train.run import autocast

WITHOUT_PICTURES = ("held_out_loss",)
"""Scorers that look at no picture."""


class Pictures:
    """Pictures of a model whose weights change. The pipeline around it is built once, a step's pictures drawn once."""

    def __init__(self, config: Config, dataset: Dataset, model: Model, device: torch.device) -> None:
        self._config, self._dataset, self._model, self._device = config, dataset, model, device
        self._drawn: tuple[int, list[Image.Image]] = (-1, [])

    def draw(self, step: int) -> list[Image.Image]:
        """Return the pictures of the prompts with the weights of `step`; where weights are sharded, a collective."""
        if self._drawn[0] != step:
            config = self._config
            width, height = sample.size(config, self._dataset.manifest)
            with torch.no_grad(), autocast(config.train, self._device):
                self._drawn = step, sample.generate(self._pipeline, self._texts, config.sample, width, height)
        return self._drawn[1]

    def write(self, step: int) -> Image.Image:
        """Write the pictures and their grid to `samples/step-<n>`; returns the grid."""
        made = self.draw(step)
        folder = storage.join(self._config.output, "samples", f"step-{step:08d}")
        for number, picture in enumerate(made):
            sample.save_picture(picture, storage.join(folder, f"{number:03d}.png"))
        columns = self._config.sample.pictures_per_prompt
        rows = [made[i : i + columns] for i in range(0, len(made), columns)]
        sheet = sample.grid(list(zip(*rows, strict=True)), column_labels=self._texts)
        sample.save_picture(sheet, storage.join(folder, "grid.png"))
        storage.write_json(storage.join(folder, "prompts.json"), self._texts)
        return sheet

    def score(self, step: int, scorers: Sequence[str], losses: list[float]) -> dict[str, float]:
        """Return the means of some scorers; `losses` are those of the held-out pictures."""
        settings = self._config.evaluate.model_copy(update={"scorers": tuple(scorers)})
        made = self.draw(step) if needs_pictures(scorers) else []
        texts = [text for text in self._texts for _ in range(self._config.sample.pictures_per_prompt if made else 0)]
        config = self._config.model_copy(update={"evaluate": settings})
        subject = Subject(config, made, texts, self._judges, losses.copy if losses else None)
        return {name: score.mean for name, score in scores(subject).items()}

    @cached_property
    def _pipeline(self) -> Any:
        return sample.build_pipeline(self._config, self._model, self._device)

    @cached_property
    def _texts(self) -> list[str]:
        return sample.prompts(self._config, self._dataset)

    @cached_property
    def _judges(self) -> Judges:
        return Judges(self._config, self._device)


def needs_pictures(scorers: Sequence[str]) -> bool:
    """Tell whether some of these scorers look at pictures."""
    return bool(set(scorers) - set(WITHOUT_PICTURES))
