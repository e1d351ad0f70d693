"""Validation images and scores of one model: the same code in a worker and on a separate
actor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from raytrain import sample, storage
from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.evaluate.run import scores
from raytrain.evaluate.subject import Judges, Subject
from raytrain.model import Model
from raytrain.sampling.cut import tell_cut
from raytrain.sampling.grid import by_prompt, grid, save_image
from raytrain.sampling.prompts import Prompt, prompts
from raytrain.train.engines.speed import autocast

WITHOUT_IMAGES = ("held_out_loss",)
"""Scorers that look at no image."""


class Images:
    """Images of a model whose weights change.

    The pipeline around it is built once, a step's images drawn once.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        model: Model,
        device: torch.device,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config, self._dataset, self._model, self._device = config, dataset, model, device
        self._tell = tell
        self._drawn: tuple[int, list[Image.Image]] = (-1, [])

    def draw(self, step: int) -> list[Image.Image]:
        """Return the images of the prompts with the weights of `step`; where weights are sharded,
        a collective."""
        if self._drawn[0] != step:
            prompts = (
                self._prompts
            )  # first: a mistake in them is raised before a pipeline is built
            with torch.no_grad(), autocast(self._config.train, self._device):
                self._drawn = step, sample.draw(self._config, self._model, self._pipeline, prompts)
        return self._drawn[1]

    def write(self, step: int) -> Image.Image:
        """Write the images and their grid to `samples/step-<n>`; returns the grid."""
        made, each = self.draw(step), self._config.sample.images_per_prompt
        folder = storage.join(self._config.output, "samples", f"step-{step:08d}")
        for number, image in enumerate(made):
            save_image(image, storage.join(folder, f"{number:03d}.png"))
        texts = [prompt.text for prompt in self._prompts[::each]]
        columns = by_prompt(self._prompts, made, each)
        sheet = grid(list(zip(*columns, strict=True)), column_labels=texts)
        save_image(sheet, storage.join(folder, "grid.png"))
        storage.write_json(storage.join(folder, "prompts.json"), texts)
        return sheet

    def score(self, step: int, scorers: Sequence[str], losses: list[float]) -> dict[str, float]:
        """Return the means of some scorers; `losses` are those of the held-out images."""
        settings = self._config.evaluate.model_copy(update={"scorers": tuple(scorers)})
        made = self.draw(step) if needs_images(scorers) else []
        known, method = self._model.method.known_words, self._config.method
        texts = [known(prompt.text, method) for prompt in self._prompts] if made else []
        config = self._config.model_copy(update={"evaluate": settings})
        subject = Subject(config, made, texts, self._judges, losses.copy if losses else None)
        return {name: score.mean for name, score in scores(subject).items()}

    @cached_property
    def _pipeline(self) -> Any:
        return sample.build_pipeline(self._config, self._model, self._device)

    @cached_property
    def _prompts(self) -> list[Prompt]:
        found = prompts(self._config, self._dataset, self._tell)
        tell_cut(self._config, found, self._tell)
        return found

    @cached_property
    def _judges(self) -> Judges:
        return Judges(self._config, self._device)


def needs_images(scorers: Sequence[str]) -> bool:
    """Return whether some of these scorers look at images."""
    return bool(set(scorers) - set(WITHOUT_IMAGES))
