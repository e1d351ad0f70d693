"""Family + weights + prompts + seed -> pictures, for hooks and jobs alike."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from raytrain import checkpoint, storage
from raytrain.config import Config, SampleConfig
from raytrain.data.read import Dataset
from raytrain.data.schema import MANIFEST, Manifest, bucket_size
from raytrain.errors import UserError
from raytrain.model import Model, build


def load_model(config: Config, folder: str | None, device: torch.device, *, ema: bool = False) -> Model:
    """Return the model of a checkpoint on a device, or as it begins (None): what a method adds has no effect then."""
    model = build(config, device)
    if folder is not None:
        model.load(checkpoint.load_weights(folder, ema=ema))
    return model.eval()


def build_pipeline(config: Config, model: Model, device: torch.device) -> Any:
    """Return the diffusers pipeline around a model that is on `device`; the rest stays on the host with `sample.offload`."""
    offloads = config.sample.offload and device.type != "cpu"
    place = torch.device("cpu") if offloads else device
    pipeline = model.method.pipeline(config, model.parts, place)
    if offloads:
        offload(pipeline, model, device)
    return pipeline


def offload(pipeline: Any, model: Model, device: torch.device) -> None:
    """Let every layer of a pipeline's frozen parts come to `device` only while it works; the model's own parts stay there.

    They run once a batch, so that moving them layer by layer costs no more than moving them whole, and holds far less.
    """
    from accelerate import cpu_offload

    for part in pipeline.components.values():
        if isinstance(part, nn.Module) and not any(part is own for own in model.parts.values()):
            cpu_offload(part, device)


def prompts(config: Config, dataset: Dataset | None) -> list[str]:
    """Return the prompts of validation and evaluation: the config's, its file's, or captions of held-out pictures."""
    sample = config.sample
    found = list(sample.prompts)
    if sample.prompt_file:
        file = Path(sample.prompt_file)
        if not file.is_file():
            raise UserError(
                f"sample.prompt_file {sample.prompt_file!r} does not exist. Give a text file, one prompt a line."
            )
        found += [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found and dataset is not None:
        for split in ("held_out", "train"):
            captions = (row["captions"][0] for row in dataset.details(split, ("captions",)))
            distinct = dict.fromkeys(caption for caption in captions if caption)
            found = found or list(itertools.islice(distinct, sample.max_prompts))
    return (found or [""])[: sample.max_prompts]


def size(config: Config, manifest: Manifest | None) -> tuple[int, int]:
    """Return (width, height) in pixels of sampled pictures: the config's, else the bucket with most pictures."""
    if config.sample.width and config.sample.height:
        return config.sample.width, config.sample.height
    if manifest is not None and manifest.buckets:
        width, height = bucket_size(max(manifest.buckets, key=lambda name: manifest.buckets[name].train))
    else:
        width = height = config.data.buckets.resolution
    return config.sample.width or width, config.sample.height or height


def generate(pipeline: Any, texts: Sequence[str], settings: SampleConfig, width: int, height: int) -> list[Image.Image]:
    """Make `pictures_per_prompt` pictures for each prompt, in order; picture i starts from seed + i alone.

    A picture is the same whatever else is made beside it, and no global random state is touched.
    """
    work = [text for text in texts for _ in range(settings.pictures_per_prompt)]
    pictures: list[Image.Image] = []
    for start in range(0, len(work), settings.batch):
        part = work[start : start + settings.batch]
        generators = [torch.Generator("cpu").manual_seed(settings.seed + start + i) for i in range(len(part))]
        pictures += pipeline(
            prompt=part,
            negative_prompt=[settings.negative] * len(part),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            width=width,
            height=height,
            generator=generators,
        ).images
    return pictures


def grid(
    rows: Sequence[Sequence[Image.Image]], row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Image.Image:
    """Lay pictures out in rows and columns, each row and column with its label."""
    width, height = rows[0][0].size
    zoom = max(1, -(-144 // width))
    width, height = width * zoom, height * zoom
    font = ImageFont.load_default(13)
    gap, left = 6, max((int(font.getlength(label)) + 12 for label in row_labels), default=0)
    wrapped = [_wrap(label, width, font) for label in column_labels]
    top = max((text.count("\n") + 1 for text in wrapped), default=0) * 16 + (8 if wrapped else 0)
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + columns * (width + gap) + gap, top + len(rows) * (height + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(wrapped):
        draw.multiline_text((left + gap + column * (width + gap), 4), text, fill="black", font=font)
    for line, row in enumerate(rows):
        y = top + gap + line * (height + gap)
        if row_labels:
            draw.text((8, y + height // 2 - 8), row_labels[line], fill="black", font=font)
        for column, picture in enumerate(row):
            tile = picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST if zoom > 1 else None)
            sheet.paste(tile, (left + gap + column * (width + gap), y))
    return sheet


def save_picture(picture: Image.Image, uri: str) -> None:
    """Write a picture as PNG, whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    storage.write_bytes(uri, buffer.getvalue())


def device_for(gpus: float) -> torch.device:
    """Return the accelerator where one was asked for or the process has one, else the CPU."""
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


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


def sample(config: Config, which: str = "latest", output: str | None = None) -> str:
    """Make the config's pictures from a checkpoint (`latest`, `best`, `base` or a folder); returns the grid's path."""
    from raytrain.startup import quiet

    quiet()
    dataset = Dataset(config.dataset) if storage.exists(storage.join(config.dataset, MANIFEST)) else None
    folder = checkpoint.find(config.output, which)
    texts = prompts(config, dataset)
    device = device_for(config.train.gpus_per_worker)
    model = load_model(config, folder, device, ema=config.export.ema)
    pipeline = build_pipeline(config, model, device)
    pictures = generate(pipeline, texts, config.sample, *size(config, dataset.manifest if dataset else None))
    target = output or storage.join(config.output, "pictures")
    for number, picture in enumerate(pictures):
        save_picture(picture, storage.join(target, f"{number:03d}.png"))
    columns = config.sample.pictures_per_prompt
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    path = storage.join(target, "grid.png")
    save_picture(grid(rows, row_labels=texts), path)
    return path
