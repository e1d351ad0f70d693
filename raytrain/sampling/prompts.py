"""What is drawn: the config's own prompts, those of its file, or captions of held-out images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from PIL import Image

from raytrain import families, methods
from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.store.schema import HELD_OUT, TRAIN, Manifest, bucket_size
from raytrain.errors import UserError
from raytrain.sampling import controls, prompt_file
from raytrain.sampling.prompt_file import Wish


@dataclass(frozen=True)
class Prompt:
    """All that one image depends on, except the weights and the sampler."""

    text: str
    negative_prompt: str = ""
    seed: int = 0
    size: tuple[int, int] = (512, 512)
    """Width and height in pixels."""
    guidance_scale: float = 7.5
    steps: int = 30
    inputs: Mapping[str, Image.Image] = field(default_factory=dict)
    """What it is conditioned on, next to the text: `control`, an image of `size`."""


def prompts(
    config: Config, dataset: Dataset | None, tell: Callable[[str], None] = lambda _: None
) -> list[Prompt]:
    """Return a prompt for each image: `images_per_prompt` of each text in a row,
    image i with `sample.seed` + i.

    A text with a seed of its own counts from that. `tell` gets a sentence where more prompts are
    given than are drawn. Raises UserError where a prompt cannot be drawn, or the method needs a
    control image and there is none.
    """
    sample, takes_controls = config.sample, "control" in methods.load(config.method).INPUTS
    wishes = _own(config, takes_controls)
    if len(wishes) > sample.max_prompts:
        tell(
            f"Of {len(wishes)} prompts the first {sample.max_prompts} are drawn "
            f"(sample.max_prompts = {sample.max_prompts}); raise it to draw the others too."
        )
    wishes = (
        wishes or list(_captions(dataset, sample.max_prompts)) or [Wish("", "the empty prompt")]
    )
    found: list[Prompt] = []
    for wish in wishes[: sample.max_prompts]:
        first = _prompt(wish, config, dataset, sample.seed + len(found), takes_controls)
        found += [replace(first, seed=first.seed + i) for i in range(sample.images_per_prompt)]
    return found


def size(config: Config, manifest: Manifest | None, bucket: str | None = None) -> tuple[int, int]:
    """Return (width, height) in pixels of sampled images: the config's, else a bucket's,
    by default the fullest one's."""
    if config.sample.width and config.sample.height:
        return config.sample.width, config.sample.height
    if bucket is None and manifest is not None and manifest.buckets:
        bucket = max(manifest.buckets, key=lambda name: manifest.buckets[name].train)
    side = config.data.buckets.resolution
    width, height = bucket_size(bucket) if bucket else (side, side)
    return config.sample.width or width, config.sample.height or height


def _own(config: Config, takes_controls: bool) -> list[Wish]:
    """Return the prompts that the config gives, with their control images."""
    sample = config.sample
    found = [Wish(text, f"sample.prompts[{number}]") for number, text in enumerate(sample.prompts)]
    if sample.prompt_file:
        found += prompt_file.read(sample.prompt_file)
    having = [f"{wish.where} (--cn)" for wish in found if wish.control]
    if sample.controls:
        having.append("sample.controls")
    if having and not takes_controls:
        raise UserError(
            f'{having[-1]} gives a control image, but method.name = "{config.method.name}" takes '
            "none; it would have no effect. Leave it out."
        )
    if sample.controls and not found:
        raise UserError(
            "sample.controls is for the prompts of sample.prompts and sample.prompt_file, and "
            "there are none: held-out captions are drawn with their own control images. Give "
            "prompts, or leave it out."
        )
    return controls.assign(found, sample.controls) if sample.controls else found


def _captions(dataset: Dataset | None, limit: int) -> Iterator[Wish]:
    """Yield distinct captions of held-out images, or of training images where none are held
    out."""
    if dataset is None:
        return
    found: dict[str, Wish] = {}
    for split in (HELD_OUT, TRAIN):
        seen: Counter[str] = Counter()
        for row in dataset.details(split, ("captions",)):
            bucket, caption = row["bucket"], row["captions"][0]
            if caption and caption not in found:
                found[caption] = Wish(
                    caption, f"a {split} caption", row=(split, bucket, seen[bucket])
                )
            if len(found) == limit:
                break
            seen[bucket] += 1
        if found:
            break
    yield from found.values()


def _prompt(
    wish: Wish, config: Config, dataset: Dataset | None, seed: int, takes_controls: bool
) -> Prompt:
    """Return a prompt with all that the wish leaves open."""
    sample, manifest = config.sample, dataset.manifest if dataset else None
    # After a stored control image of another shape only part of it would be drawn.
    width, height = size(config, manifest, wish.row[1] if wish.row and takes_controls else None)
    width, height = wish.width or width, wish.height or height
    family = families.load(config.model.family)
    multiple = family.latent(config.model).multiple
    if width % multiple or height % multiple:
        raise UserError(
            f"An image of a {config.model.family} model has sides that are multiples of "
            f"{multiple} pixels, got {width}x{height} for {wish.where}; it cannot be drawn. "
            "Change sample.width and sample.height, or '--w' and '--h'."
        )
    return Prompt(
        text=wish.text,
        negative_prompt=sample.negative_prompt
        if wish.negative_prompt is None
        else wish.negative_prompt,
        seed=seed if wish.seed is None else wish.seed,
        size=(width, height),
        guidance_scale=sample.guidance_scale
        if wish.guidance_scale is None
        else wish.guidance_scale,
        steps=sample.steps if wish.steps is None else wish.steps,
        inputs={"control": controls.image(wish, config, dataset, (width, height))}
        if takes_controls
        else {},
    )
