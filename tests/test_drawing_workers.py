"""Several workers draw the images of one command: each batch once, as one worker alone would."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raytrain import sample
from raytrain.config import Config
from raytrain.errors import UserError
from raytrain.sampling import workers
from raytrain.sampling.prompts import Prompt
from raytrain.sampling.workers import Helper, Lost, draw_together

PROMPTS = [Prompt(str(seed), seed=seed, size=(16, 16)) for seed in range(7)]


def of_seed(prompts: Sequence[Prompt]) -> list[Image.Image]:
    return [Image.new("RGB", prompt.size, (prompt.seed, 0, 0)) for prompt in prompts]


class Other:
    """A helper; `comes` says what happens when it is waited for, `draws` when it is asked."""

    def __init__(self, draws: Callable[..., Any], comes: Callable[[], Any] = lambda: None) -> None:
        self.wait, self._draws = comes, draws

    def draw(self, which: str, prompts: Sequence[Prompt]) -> list[Image.Image]:
        assert which == "base"
        self._draws()
        return of_seed(prompts)


def together(own: workers.Draw, *others: Helper) -> tuple[list[int], list[str]]:
    """Draw; returns the seeds of the images and what was told."""
    said: list[str] = []
    images = draw_together(PROMPTS, 2, own, others, "base", said.append)
    return [image.getpixel((0, 0))[0] for image in images], said


def fail(error: type[Exception]) -> Callable[[], None]:
    def act() -> None:
        raise error("planted")

    return act


def test_whoever_is_free_takes_the_next_batch() -> None:
    """The one that asks does not end its first batch before the helper has drawn three."""
    counted, drawn = itertools.count(1), threading.Event()

    def own(prompts: Sequence[Prompt]) -> list[Image.Image]:
        assert drawn.wait(600)
        return of_seed(prompts)

    def draws() -> None:
        if next(counted) == 3:
            drawn.set()

    seeds, said = together(own, Other(draws))
    assert seeds == list(range(7))
    assert said[0].startswith("Images by each of 2 workers (sample.workers): ")


def test_nobody_waits_for_a_helper_that_does_not_come() -> None:
    never = threading.Event()
    seeds, said = together(of_seed, Other(fail(AssertionError), never.wait))
    assert (seeds, said) == (
        list(range(7)),
        ["Images by each of 2 workers (sample.workers): 7, 0"],
    )
    never.set()


def test_what_a_lost_helper_drew_is_drawn_by_another() -> None:
    lost = threading.Event()

    def draws() -> None:
        lost.set()
        raise Lost

    def own(prompts: Sequence[Prompt]) -> list[Image.Image]:
        assert lost.wait(600)
        return of_seed(prompts)

    seeds, said = together(own, Other(draws))
    assert seeds == list(range(7))
    assert said == [
        "Images by each of 2 workers (sample.workers): 7, 0; 1 were lost while they drew"
    ]


def test_a_mistake_that_a_helper_meets_ends_the_command() -> None:
    failed = threading.Event()

    def draws() -> None:
        failed.set()
        raise UserError("planted")

    def own(prompts: Sequence[Prompt]) -> list[Image.Image]:
        assert failed.wait(600)
        return of_seed(prompts)

    with pytest.raises(UserError, match="planted"):
        together(own, Other(draws))


@pytest.mark.usefixtures("ray")
def test_actors_draw_the_same_bits(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch is drawn here when an actor has drawn one."""
    settings = {"steps": 1, "prompts": ["a", "b"], "batch": 1, "images_per_prompt": 2}
    alone = run_config("sd15", "alone", sample=settings)
    sample.sample(alone, "base")
    config = run_config("sd15", "together", sample={**settings, "workers": 2})
    said: list[str] = []
    put, draw, came = workers._Sheet.put, sample.draw, threading.Event()

    def watched(sheet: Any, worker: int, *batch: Any) -> None:
        put(sheet, worker, *batch)
        if worker:
            came.set()

    def late(*given: Any) -> list[Image.Image]:
        assert came.wait(600)
        return draw(*given)

    monkeypatch.setattr(workers._Sheet, "put", watched)
    monkeypatch.setattr(sample, "draw", late)
    sample.sample(config, "base", tell=said.append)
    names = [f"{number:03d}.png" for number in range(4)]
    assert [Path(config.output, "images", name).read_bytes() for name in names] == [
        Path(alone.output, "images", name).read_bytes() for name in names
    ]
    own, helped = (
        said[-1].removeprefix("Images by each of 2 workers (sample.workers): ").split(", ")
    )
    assert int(own) + int(helped) == 4
    assert int(helped) > 0
