"""Batches made by hand, without images or a dataset: the columns that a model of tiny weights
reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raytrain import families, methods
from raytrain.batch import Batch, Columns
from raytrain.config import Config
from tests.encoders import Encoders

HEIGHT, WIDTH = 64, 32


def make(config: Config, rows: int = 4, words: Sequence[str] = (), seed: int = 0) -> Batch:
    """Return rows of one 32x64 bucket on the CPU with every column that a method may read but a
    mask; `words` are in captions.

    Latents and control images are random, texts and tokens those of short captions.
    """
    family, method = families.load(config.model.family), methods.load(config.method)
    shape = family.latent(config.model)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(
        rows, shape.stored, HEIGHT // shape.factor, WIDTH // shape.factor, generator=generator
    )
    control = torch.randint(
        0, 256, (rows, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8
    )
    captions = [" ".join([f"image {number}", *words]) for number in range(rows)]
    encoders = Encoders(config.model, torch.device("cpu"), torch.float32)
    text = {name: column.half() for name, column in encoders.encode_captions(captions).items()}
    knowing = method.tokenizers(encoders.tokenizers, family, config.method)
    tokens = family.tokenize(knowing, captions, config.model)
    sizes = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]], dtype=torch.float32).repeat(
        rows, 1
    )
    columns = Columns(
        {"latents": latents.half(), "control": control, "sizes": sizes, **text, **tokens}
    )
    ids = [f"row {number}" for number in range(rows)]
    return Batch(ids, [0] * rows, torch.ones(rows), columns)
