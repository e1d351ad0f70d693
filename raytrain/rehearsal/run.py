"""Rehearse a config: prepare, train, resume, score and export a few images of it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from raytrain import effective, local, storage
from raytrain.config import Config
from raytrain.data.pipeline.executor import Executor
from raytrain.data.pipeline.few import LOOKED
from raytrain.data.pipeline.report import PrepareReport
from raytrain.data.prepare import prepare
from raytrain.data.store.snapshot import read_snapshot
from raytrain.errors import UserError
from raytrain.lock import locked
from raytrain.peak import Peak
from raytrain.rehearsal.settings import DONE, FOLDER, identity, lasting, rehearsed, uses_scorers
from raytrain.show import Advance, Show, Stages
from raytrain.train.launch import launch
from raytrain.train.local_worker import call
from raytrain.train.record import notices, phases

SILENT_NOTICES = ("Training with ", effective.HEAD)
"""What notices begin with that are of the rehearsal itself and not of the config."""


ENCODE = "encode"


class Follow:
    """Shows nothing of what a rehearsal calls, and remembers in which phase it is; see
    `raytrain.show`."""

    def __init__(self, config: Config, show: Show) -> None:
        self._names = {config.data.captions.captioner: "caption"}
        self.phase = "check"
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.warn = show.warn

    def tell(self, text: str) -> None:
        """Show nothing."""

    @contextmanager
    def stages(self) -> Iterator[Stages]:
        """Time the stages of preparation."""

        @contextmanager
        def stage(name: str, total: int | None) -> Iterator[Advance]:
            self.phase, began = self._names.get(name, name), time.monotonic()
            yield lambda count: None
            self.seconds[name] += time.monotonic() - began
            if name != ENCODE:  # the last stage, whose faults are told by what follows it
                self.phase = "prepare"

        yield stage

    def training(self, output: str, total_steps: int) -> AbstractContextManager[None]:
        """Show nothing."""
        return nullcontext()


class Rehearsal:
    """One rehearsal in its folder."""

    def __init__(self, config: Config, folder: str, executor: Executor, show: Show) -> None:
        self.config, self.executor, self.show = config, executor, show
        self.follow = Follow(config, show)
        self.few = rehearsed(config, folder)
        self.scored = uses_scorers(config)

    def check(self) -> None:
        """Check what is known without running anything."""
        check = "raytrain.rehearsal.work:check"
        self.executor.call(check, config=self.config, scored=self.scored)

    def prepare(self) -> None:
        """Caption and encode a few images."""
        report = prepare(self.few, self.executor, self.follow, rehearsed=True)
        found = f"{report.kept} images of {len(report.buckets)} buckets"
        self.show.tell(f"    {found}, of the first {min(report.found, LOOKED)}")
        for name, seconds in self.follow.seconds.items():
            self._line(name, seconds, report.peaks.get(name))
        for note in report.notes:
            self.show.tell(f"note: {note}")
        self._refuse_rejected(report)
        manifest = read_snapshot(self.few.dataset, report.snapshot)
        self.few = lasting(self.few, manifest, scored=False)
        self.last = lasting(self.few, manifest, scored=self.scored)

    def train(self) -> dict[str, float]:
        """Train to the end, then once more from the checkpoint before it, with the same workers;
        return the metrics."""
        output = self.few.output
        seen = notices.Notices(output)
        self.follow.phase = phases.START
        try:
            return launch(self.few, executor=self.executor, show=self.follow, again=self.last)
        finally:
            if storage.exists(storage.join(output, phases.BEFORE)):
                self._phases(phases.BEFORE, "")
                self._phases(phases.FILE, "resume, ")
            else:
                self._phases(phases.FILE, "")
            for text in seen.new():
                if not text.startswith(SILENT_NOTICES):
                    self.show.tell(f"note: {text}")

    def export(self) -> None:
        """Write every format."""
        self.follow.phase, began = "export", time.monotonic()
        export = "raytrain.rehearsal.work:export"
        held = call(self.few, self.executor, export, leave=local.MODELS, config=self.few)
        self._line("export", time.monotonic() - began, held)

    def _phases(self, file: str, prefix: str) -> None:
        """Show what was done in training, and remember the last of it."""
        doing, done = phases.read(self.few.output, file)
        self.follow.phase = f"{prefix}{doing}"
        for each in done:
            held = Peak(each.host_mb, each.device_mb)
            self._line(f"{prefix}{each.name}", each.seconds, held)

    def _refuse_rejected(self, report: PrepareReport) -> None:
        if not report.broken:
            return
        listed = "; ".join(f"{item.path}: {item.reason}" for item in report.rejected[:5])
        if self.config.data.allow_rejected:
            self.show.tell(f"note: {report.broken} images were left out: {listed}")
            return
        raise UserError(
            f"{report.broken} of the images looked at cannot be used ({listed}): the run would "
            "stop after preparing all others. Mend or remove such images (`raytrain prepare` "
            "lists all), or train without them (data.allow_rejected = true)."
        )

    def _line(self, name: str, seconds: float, held: Peak | None) -> None:
        self.show.tell(f"    {name:20} {seconds:6.1f} s  {held or ''}".rstrip())


def rehearse(
    config: Config,
    executor: Executor,
    show: Show,
    judge: Callable[[Mapping[str, float]], None] = lambda _: None,
) -> None:
    """Let a few images go through every phase of a config; show seconds and memory of each.

    `judge` gets the metrics at the end, and raises where the command needs others. Raises
    UserError for a mistake, with the phase that met it. Only `<output>/rehearsed.json` stays.
    """
    began = time.monotonic()
    with _scratch(config.output) as folder:
        show.tell(f"Rehearsing every phase with one image of each bucket, in {folder}:")
        rehearsal = Rehearsal(config, folder, executor, show)
        with _told(rehearsal.follow):
            rehearsal.check()
            rehearsal.prepare()
            metrics = rehearsal.train()
            rehearsal.follow.phase = "tune"
            judge(metrics)
            rehearsal.export()
    seconds = time.monotonic() - began
    storage.write_json(
        storage.join(config.output, DONE), {"config": identity(config), "seconds": seconds}
    )
    show.tell(f"Every phase was rehearsed, in {seconds:.1f} s.")


@contextmanager
def _scratch(output: str) -> Iterator[str]:
    """Give a folder in the output that is removed afterwards, with what a killed rehearsal left
    there."""
    place = storage.join(output, FOLDER)
    with locked(place, "Another rehearsal is running", "two would share their files"):
        try:
            for name in ("run", "dataset"):
                storage.remove(storage.join(place, name))
            yield place
        finally:
            storage.remove(place)
            if storage.is_local(output):
                with suppress(OSError):  # it holds something
                    os.rmdir(storage.resolve(output)[1])


@contextmanager
def _told(follow: Follow) -> Iterator[None]:
    """Say of an error in which phase it was met."""
    try:
        yield
    except UserError as error:
        raise UserError(f"Rehearsal, phase {follow.phase!r}: {error}") from error
    except Exception as error:
        error.add_note(f"Met by the rehearsal, phase {follow.phase!r}.")
        raise
