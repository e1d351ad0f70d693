"""A tiny CLIP with random weights, built offline, and judges whose embeddings are given by
hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from raytrain.clip import unit
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.evaluate.subject import Judges, Subject


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models are quicker on one thread; on a busy machine threads waiting for each other are
    ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from raytrain.toy import parts

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tokens = parts.tokenizer()
    for part in (tokens, parts.clip(tokens), parts.image_processor()):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path)


def settings(folder: Path, **evaluate: Any) -> Config:
    return parse({"output": str(folder / "run"), "model": {"path": "base"}, "evaluate": evaluate})


class FixedClip:
    """A CLIP whose embeddings are rows written by hand, images and texts told apart by their
    call."""

    def __init__(
        self, images: Sequence[Sequence[float]], texts: dict[str, Sequence[float]]
    ) -> None:
        self.images, self.texts = unit(torch.tensor(images)), texts
        self.calls = 0

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.calls += 1
        return self.images

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return unit(torch.tensor([self.texts[text] for text in texts]))


Hand = Callable[..., Subject]


@pytest.fixture
def by_hand(tmp_path: Path) -> Hand:
    """Return a maker of subjects from hand-written embeddings: images, prompts with theirs,
    references, settings."""

    def make(
        images: Sequence[Sequence[float]],
        prompts: Sequence[tuple[str, Sequence[float]]] = (),
        references: Sequence[Sequence[float]] = (),
        **evaluate: Any,
    ) -> Subject:
        config = settings(tmp_path, **evaluate)
        judges = Judges(config, "cpu")
        judges.__dict__["clip"] = FixedClip(images, dict(prompts))
        judges.__dict__["reference_embeddings"] = (
            unit(torch.tensor(references)) if references else torch.zeros(0, 2)
        )
        blank = [Image.new("RGB", (8, 8)) for _ in images]
        return Subject(config, blank, [text for text, _ in prompts] or [""] * len(blank), judges)

    return make
