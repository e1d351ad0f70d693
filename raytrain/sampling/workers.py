"""Images drawn by several workers of a Ray: whichever is free takes the next batch.

The process that asks is one of them. The others are actors, which may come late, as on a cluster
that grows, or never: nobody waits for one that has not come. What a lost one was drawing is drawn
by another.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

from PIL import Image

from raytrain.checkpoint import DeletedError
from raytrain.config import Config
from raytrain.sampling.generate import batches
from raytrain.sampling.prompts import Prompt
from raytrain.startup import in_ray

Draw = Callable[[Sequence[Prompt]], list[Image.Image]]
Tell = Callable[[str], None]


class Lost(Exception):  # noqa: N818
    """A worker, or the checkpoint that it would read, is no longer there."""


class Helper(Protocol):
    """Another worker that draws."""

    def wait(self) -> None:
        """Return when it has come; raises Lost where it never will."""

    def draw(self, which: str, prompts: Sequence[Prompt]) -> list[Image.Image]:
        """Return an image for each prompt, by a checkpoint's folder or `base`; raises Lost."""


@contextmanager
def helpers(config: Config, drawer: type) -> Iterator[list[Helper]]:
    """Ask the Ray that this process is in for `sample.workers` - 1 actors of a class, for the
    length of the block; without a Ray there are none."""
    wanted = config.sample.workers - 1
    if not wanted or not in_ray():
        yield []
        return
    import ray

    actor = ray.remote(num_cpus=config.train.cpus_per_worker, num_gpus=config.drawing_gpus)(drawer)
    actors = [actor.remote(config) for _ in range(wanted)]
    try:
        yield [OfRay(each) for each in actors]
    finally:
        for each in actors:
            ray.kill(each)


def draw_together(
    prompts: Sequence[Prompt],
    batch: int,
    own: Draw,
    others: Sequence[Helper],
    which: str,
    tell: Tell,
) -> list[Image.Image]:
    """Return an image for each prompt, in order, each drawn in the batch in which one worker alone
    would draw it: `own` and the others take batches until there is none.

    `which` is the checkpoint's folder, or `base`, for the others. Raises what a worker raises.
    """
    sheet = _Sheet(prompts, batch)
    for number, other in enumerate(others, start=1):
        target = partial(_help, sheet, number, other, which)
        threading.Thread(target=target, name=f"drawing-{number}", daemon=True).start()
    while (taken := sheet.take_last()) is not None:
        sheet.put(0, taken, own([prompts[number] for number in taken]))
    if others:
        counts = [sheet.drawn[number] for number in range(len(others) + 1)]
        lost = f"; {sheet.lost} were lost while they drew" if sheet.lost else ""
        tell(
            f"Images by each of {len(counts)} workers (sample.workers): "
            f"{', '.join(map(str, counts))}{lost}"
        )
    return [sheet.images[number] for number in range(len(prompts))]


class _Sheet:
    """The images of prompts, as workers of several threads draw them."""

    def __init__(self, prompts: Sequence[Prompt], batch: int) -> None:
        self.prompts = prompts
        self.images: dict[int, Image.Image] = {}
        self.drawn: Counter[int] = Counter()
        self.lost = 0
        self._left = deque(batches(prompts, batch))
        self._change = threading.Condition()
        self._error: Exception | None = None

    def take(self) -> list[int] | None:
        """Return a batch that nobody draws, as numbers of prompts; None where there is none."""
        with self._change:
            return self._left.popleft() if self._left and not self._error else None

    def take_last(self) -> list[int] | None:
        """Return a batch that nobody draws, or no longer draws, or None when every image is there;
        raises what a worker failed with."""
        with self._change:
            self._change.wait_for(
                lambda: self._error or self._left or len(self.images) == len(self.prompts)
            )
            if self._error:
                raise self._error
            return self._left.popleft() if self._left else None

    def put(self, worker: int, batch: Sequence[int], images: Sequence[Image.Image]) -> None:
        """Keep the images of a batch."""
        with self._change:
            self.images.update(zip(batch, images, strict=True))
            self.drawn[worker] += len(batch)
            self._change.notify_all()

    def give_back(self, batch: list[int]) -> None:
        """Let another worker draw a batch."""
        with self._change:
            self._left.append(batch)
            self.lost += 1
            self._change.notify_all()

    def fail(self, error: Exception) -> None:
        """Let the whole fail."""
        with self._change:
            self._error = error
            self._change.notify_all()


def _help(sheet: _Sheet, number: int, helper: Helper, which: str) -> None:
    """Let a helper draw while there is something to draw."""
    with suppress(Lost):
        helper.wait()
        while (batch := sheet.take()) is not None:
            try:
                sheet.put(number, batch, helper.draw(which, [sheet.prompts[i] for i in batch]))
            except Lost:
                sheet.give_back(batch)
                return
            except Exception as error:  # raised where the images are waited for
                sheet.fail(error)
                return


class OfRay:
    """A helper that is an actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def wait(self) -> None:
        """Return when the actor has started."""
        self._get(self._actor.ready.remote())

    def draw(self, which: str, prompts: Sequence[Prompt]) -> list[Image.Image]:
        """Return an image for each prompt."""
        images: list[Image.Image] = self._get(self._actor.draw.remote(which, list(prompts)))
        return images

    def _get(self, result: Any) -> Any:
        from raytrain.data.pipeline.on_ray import LOST, got

        try:
            return got(result)
        except (*LOST, DeletedError) as error:
            raise Lost from error
