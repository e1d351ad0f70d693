"""A checkpoint's model and the pipeline around it, for hooks and jobs alike;
and the job that draws with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import nn

from raytrain import checkpoint, storage
from raytrain.checkpoint import Learned
from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.store.schema import MANIFEST
from raytrain.errors import UserError
from raytrain.local import free
from raytrain.lock import locked
from raytrain.model import Model, build
from raytrain.paths import inside
from raytrain.sampling.cut import tell_cut
from raytrain.sampling.generate import generate
from raytrain.sampling.grid import by_prompt, grid, save_image
from raytrain.sampling.prompts import Prompt, prompts
from raytrain.sampling.workers import Draw, draw_together, helpers
from raytrain.startup import quiet


def load_model(config: Config, learned: Learned | None, device: torch.device) -> Model:
    """Return the model of a checkpoint on a device, or as before training (None):
    what a method adds has no effect then."""
    model = build(config, device)
    if learned is not None:
        model.load(learned.weights)
    return model.eval()


def build_pipeline(config: Config, model: Model, device: torch.device) -> Any:
    """Return the diffusers pipeline around a model that is on `device`;
    the rest stays on the host with `sample.offload`."""
    offloads = config.sample.offload and device.type != "cpu"
    place = torch.device("cpu") if offloads else device
    pipeline = model.method.pipeline(config, model.parts, place)
    if offloads:
        offload(pipeline, model, device)
    return pipeline


def offload(pipeline: Any, model: Model, device: torch.device) -> None:
    """Let every layer of a pipeline's frozen parts come to `device` only while it works;
    the model's own parts stay there.

    They run once a batch, so that moving them layer by layer costs no more than moving them whole,
    and holds far less.
    """
    from accelerate import cpu_offload

    for part in pipeline.components.values():
        if isinstance(part, nn.Module) and not any(part is own for own in model.parts.values()):
            cpu_offload(part, device)


def draw(
    config: Config, model: Model, pipeline: Any, prompts: Sequence[Prompt]
) -> list[Image.Image]:
    """Return an image for each prompt, by a pipeline around `model`."""
    inputs = partial(model.method.pipeline_inputs, model.objective.family, model.config)
    return generate(pipeline, prompts, config.sample.batch, inputs)


class Drawer:
    """An actor that draws with one model after the other."""

    def __init__(self, config: Config) -> None:
        quiet()
        self._config = config
        self._which = ""
        self._draw: Draw | None = None

    def ready(self) -> None:
        """Return as soon as the actor is there."""

    def draw(self, which: str, prompts: Sequence[Prompt]) -> list[Image.Image]:
        """Return an image for each prompt, by a checkpoint's folder or `base`."""
        if self._draw is None or which != self._which:
            self._draw = None
            free()
            config = self._config
            learned = checkpoint.learned(config.output, which, ema=config.export.ema)
            device = device_for(config.drawing_gpus)
            model = load_model(config, learned, device)
            self._draw = partial(draw, config, model, build_pipeline(config, model, device))
            self._which = which
        return self._draw(prompts)


def device_for(gpus: float) -> torch.device:
    """Return the accelerator where one was requested or the process has one, else the CPU."""
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


def sample(
    config: Config,
    which: str = "latest",
    output: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> str:
    """Make the config's images from a checkpoint (`latest`, `best`, `base` or a folder);
    returns the grid's path.

    `tell` gets what the user should know.
    """
    quiet()
    if output:
        _check_apart(config, output)
    dataset = (
        Dataset.of(config) if storage.exists(storage.join(config.dataset, MANIFEST)) else None
    )
    learned = checkpoint.learned(config.output, which, ema=config.export.ema)
    asked = prompts(config, dataset, tell)
    tell_cut(config, asked, tell)
    device = device_for(config.drawing_gpus)
    with helpers(config, Drawer) as others:
        model = load_model(config, learned, device)
        own = partial(draw, config, model, build_pipeline(config, model, device))
        folder = learned.folder if learned else "base"
        images = draw_together(asked, config.sample.batch, own, others, folder, tell)
    target = output or storage.join(config.output, "images")
    each = config.sample.images_per_prompt
    path = storage.join(target, "grid.png")
    labels = [prompt.text for prompt in asked[::each]]
    with locked(target, "Another command is writing images", "two would mix theirs", ".lock"):
        for number, image in enumerate(images):
            save_image(image, storage.join(target, f"{number:03d}.png"))
        save_image(grid(by_prompt(asked, images, each), row_labels=labels), path)
    return path


def _check_apart(config: Config, output: str) -> None:
    """Raise UserError where images would be drawn among those that are trained on."""
    try:
        config.check_apart("--output", output)
        if inside(output, config.dataset):
            raise ValueError(
                f"--output {output!r} is in the dataset {config.dataset!r}, which holds what was "
                "prepared alone. Give a folder beside it"
            )
    except ValueError as error:
        raise UserError(f"{error}.") from None
