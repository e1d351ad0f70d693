"""Images in, dataset out: `prepare(config)` brings the dataset folder to what the sources and the
settings say.

    list -> scan -> filter -> annotate -> plan rows -> plan encoding <-> encode -> publish

The manifest is written last. Each stage reads tables and writes tables on storage; this module
only starts them, so the driver's memory does not grow with the dataset. What is missing is found
by content address, so only that is made, whatever happened before. Several preparations of one
folder at once are safe: files are immutable, and only working files are deleted here.
"""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator

from raytrain import storage
from raytrain.config import Config
from raytrain.config.data import GROWING, DataConfig
from raytrain.data.annotate import annotator, concept
from raytrain.data.annotate.cut import Cut
from raytrain.data.pipeline import few, flow, listing, plan_encoding, plan_rows, room, scan
from raytrain.data.pipeline.conclude import conclude
from raytrain.data.pipeline.encode import ShardEncoder
from raytrain.data.pipeline.executor import Executor, Job, Need, Report, chosen
from raytrain.data.pipeline.filter import filter_images
from raytrain.data.pipeline.notes import of_sources
from raytrain.data.pipeline.report import PrepareReport
from raytrain.data.store import partial_shards, shard, snapshot, tables
from raytrain.data.store.fingerprint import Fingerprint
from raytrain.peak import Peak
from raytrain.show import SILENT, Show, Stages
from raytrain.telemetry import Telemetry

GROWING_MINUTES = 5.0
"""How often what is ready is published for a run that trains meanwhile."""
PASSES = 3
"""Encoding rounds at most; the second finds nothing missing unless another preparation or a fault
interfered."""
STALE_SECONDS = 24 * 3600
"""Working files of a preparation that was killed are deleted by a later one after this time."""
ALIVE, BEAT_SECONDS = "alive", 60.0
"""File that a running preparation touches, and how often."""


class Preparation:
    """One run: its settings, its folder of working tables, and what it did so far."""

    def __init__(
        self, config: Config, known: Fingerprint, show: Stages, executor: Executor, rehearsed: bool
    ) -> None:
        self.rehearsed = rehearsed
        self.executor = executor
        self.config, self.data, self.fingerprint, self.stage = config, config.data, known, show
        self.dataset = config.dataset
        self.work = storage.join(
            self.dataset, "work", f"{int(time.time())}-{uuid.uuid4().hex[:8]}"
        )
        self.catalog, self.annotations = (
            storage.join(self.dataset, "catalog"),
            storage.join(self.dataset, "annotations"),
        )
        self.passing = self._at("scans")
        self.faults = self._at("faults")
        self.counts: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.planned: Counter[str] = Counter()
        self.annotated: dict[str, int] = {}
        self.said: list[str] = []
        self.peaks: dict[str, Peak] = {}
        self.mean_ratio = 1.0
        self.grows = self.data.snapshot == GROWING
        self.telemetry = Telemetry(config)
        self.beaten = -BEAT_SECONDS
        self._beat()

    def run(self) -> Report:
        """Do all stages; return what the last one published."""
        items = self._list()
        self._scan(items)
        images = self._filter(items)
        if self.rehearsed:
            images = self._choose(images)
        self._plan_rows(self._annotate(images))
        for _ in range(PASSES):
            self._encode()
            published = self._publish(complete=True)
            if not published.get("lost"):
                return published
        raise RuntimeError(
            f"what a snapshot of {self.dataset!r} needs was lost {PASSES} times between encoding "
            "and publishing"
        )

    def _list(self) -> str:
        items = self._at("items.parquet")
        with self.stage("list", None):
            count = self.executor.call(
                listing.write_items,
                data=self.data,
                items=items,
                rejected=self._at("rejected", "list"),
                downloads=storage.join(self.dataset, "downloads"),
                most=few.LOOKED if self.rehearsed else None,
            )
        self.counts["found"] = count["items"] + count["rejected"] - count["unused"]
        return items

    def _scan(self, items: str) -> None:
        unscanned = self._at("unscanned.parquet")
        self.counts["scanned"] = self.executor.call(
            scan.write_unscanned, items=items, catalog=self.catalog, unscanned=unscanned
        )
        settings = {"data": self.data, "catalog": self.catalog, "passing": self.passing}
        self._each(
            "scan",
            self.counts["scanned"],
            flow.map_tasks(self.executor, tables.groups_of(unscanned), scan.scan, **settings),
        )

    def _filter(self, items: str) -> str:
        images = self._at("images.parquet")
        kept = self.executor.call(
            filter_images,
            items=items,
            scans=(self.catalog, self.passing),
            quality=self.data.quality,
            captions=self.data.captions,
            images=images,
            rejected=self._at("rejected", "filter.parquet"),
        )
        self.mean_ratio = kept["mean_ratio"] or 1.0
        self.counts["images"] = kept["kept"]
        subsets = self.data.all_subsets()
        self.said += [
            f"no image of the subset {subsets[subset].source!r} is left: its {count} were left "
            f"out, most by rule {rule!r}; what the subset sets has no effect"
            for subset, count, rule in kept["empty"]
        ]
        return images

    def _choose(self, images: str) -> str:
        """Keep a few images; what was left out before is nothing that they meet."""
        chosen = self._at("few.parquet")
        words = getattr(self.config.method, "tokens", ())
        settings = {"data": self.data, "mean_ratio": self.mean_ratio, "words": words}
        self.counts.update(self.executor.call(few.choose, images=images, few=chosen, **settings))
        storage.remove(self._at("rejected"))
        return chosen

    def _annotate(self, images: str) -> str:
        cut = Cut(self.data.buckets, self.config.seed, self.mean_ratio)
        total = self.counts["images"]
        self._choose_captioner(total)
        for number, stage in enumerate(annotator.stages(self.data, cut, total)):
            data = self.data
            if stage.kind == "rewrite":
                data = self._described(images)
                stage = annotator.stages(data, cut, total)[number]
            needed, faults = (
                self._at(f"needed-{number}.parquet"),
                self._at(f"annotation-faults-{number}"),
            )
            reads = {"stage": stage, "images": images, "annotations": self.annotations}
            count = self.executor.call(annotator.write_needed, **reads, needed=needed)
            encode = self.data.encode
            settings = {"data": data, "stage": stage, "annotations": self.annotations,
                        "faults": faults,
                        "threads": max(1, int(encode.cpus_per_worker))}  # fmt: skip
            reports = flow.map_actors(
                self.executor, tables.groups_of(needed), annotator.Annotator, settings, encode
            )
            self.annotated[stage.name] = sum(
                report["made"] for report in self._each(stage.name, count, reports)
            )
            annotated = self._at(f"images-{number}.parquet")
            rejected = self._at("rejected", f"annotation-{number}.parquet")
            self.executor.call(
                annotator.apply,
                **reads,
                data=data,
                faults=faults,
                annotated=annotated,
                rejected=rejected,
            )
            images = annotated
        return images

    def _choose_captioner(self, images: int) -> None:
        """Have a set of so many images captioned by its fallback, where it is too large."""
        asked = self.data.captions.of(images)
        if asked is not self.data.captions:
            self.said.append(
                f"{images} images are too many for {self.data.captions.captioner!r}: captions are "
                f"of {asked.captioner!r} (data.captions.fallback)"
            )
            self.data = self.data.model_copy(update={"captions": asked})
            self.config = self.config.model_copy(update={"data": self.data})

    def _described(self, images: str) -> DataConfig:
        """Return [data] with what the images have in common, where the rewriter asks for it."""
        found = self.executor.call(
            concept.described, data=self.data, images=images, annotations=self.annotations
        )
        self.said += [found["note"]] if found["note"] else []
        return concept.told(self.data, found["concept"])

    def _plan_rows(self, images: str) -> None:
        jobs = tables.groups_of(images)
        settings = {"data": self.data, "fingerprint": self.fingerprint, "seed": self.config.seed,
                    "mean_ratio": self.mean_ratio, "work": self.work}  # fmt: skip
        total = sum(job["rows"] for job in jobs)
        reports = flow.map_tasks(
            self.executor, jobs, plan_rows.plan_rows, images=total, **settings
        )
        self.planned["images"] = self.counts["images"]
        for report in self._each("plan", total, reports):
            noted = ("enlarged", "cropped", "unsaid", "unheard", "faceless")
            self.planned.update({name: report[name] for name in noted})

    def _encode(self) -> None:
        """Encode what is missing until nothing is; first recover the partial shards of runs that
        were killed."""
        if left := partial_shards.left(self.dataset, self.work):
            rows = self.data.encode.group_rows
            self.executor.call(
                partial_shards.gather,
                dataset=self.dataset,
                left=left,
                stored=self._stored(),
                group_rows=rows,
            )
        for number in itertools.count():
            found = self._plan_encoding(number)
            total = found["arrays"] + found["captions"]
            self.counts["reused"] += found["there"] if number == 0 else 0
            room.check_missing(self.config, self.fingerprint, found["missing"])
            empty = [name for name in self.fingerprint.names("caption") if self._no_empty(name)]
            if not total and not empty:
                return
            if number == PASSES:
                raise RuntimeError(
                    f"{total} arrays are still missing from {self.dataset!r} after {PASSES} rounds"
                )
            jobs: list[Job] = [{"kind": "empty", "store": name} for name in empty]
            for kind, file in (("texts", "text_work"), ("arrays", "work")):
                own = [job | {"kind": kind} for job in tables.groups_of(found["files"][file])]
                if self.grows:  # what is trained on first is to have images of all buckets
                    random.Random(self.config.seed).shuffle(own)
                jobs += own
            for report in self._run_encoders(jobs, "encode", total):
                self.made.update(report["made"])
                self.cut.update(report.get("cut", {}))

    def _no_empty(self, name: str) -> bool:
        """Tell whether the empty caption of a column is not encoded."""
        return shard.read_arrays(self.dataset, name, self.fingerprint.empty_key(name)) is None

    def _plan_encoding(self, number: int) -> Report:
        stored = self._stored()
        settings = {"fingerprint": self.fingerprint, "encode": self.data.encode, "number": number,
                    "grows": self.grows}  # fmt: skip
        result: Report = self.executor.call(
            plan_encoding.write_jobs,
            work=self.work,
            stored=stored,
            faults=(self.faults, self._known()),
            **settings,
        )
        return result

    def _run_encoders(self, jobs: list[Job], name: str, total: int | None) -> list[Report]:
        settings = {"config": self.config, "fingerprint": self.fingerprint, "faults": self.faults,
                    "partial_shards": self._at("partial_shards"),
                    "done": self._at("done")}  # fmt: skip
        reports = flow.map_actors(self.executor, jobs, ShardEncoder, settings, self.data.encode)
        return self._each(name, total, self._publishing(reports))

    def _publishing(self, reports: Iterator[Report]) -> Iterator[Report]:
        """Pass reports on, and publish what is ready every so often where the settings ask for
        it."""
        minutes = self.data.encode.publish_minutes or (GROWING_MINUTES if self.grows else None)
        published = time.monotonic()
        for report in reports:
            yield report
            due = minutes and time.monotonic() - published > 60 * minutes
            if due and not any(map(self._no_empty, self.fingerprint.names("caption"))):
                self._publish(complete=False)
                published = time.monotonic()

    def _publish(self, complete: bool) -> Report:
        result: Report = self.executor.call(
            snapshot.publish,
            dataset=self.dataset,
            work=self.work,
            stored=self._stored(),
            faults=(self.faults, self._known()),
            rejected=tuple(
                self._at("rejected", name) for name in storage.names(self._at("rejected"))
            ),
            data=self.data,
            fingerprint=self.fingerprint,
            complete=complete,
        )
        return result

    def _stored(self) -> str:
        stored = self._at("stored", f"{uuid.uuid4().hex}.parquet")
        self.executor.call(
            plan_encoding.write_stored,
            dataset=self.dataset,
            stored=stored,
            columns=tuple(self.fingerprint.columns),
        )
        return stored

    def _known(self) -> str:
        """Return the table of faults of earlier preparations that would recur with the same
        bytes and settings."""
        known = self._at("known.parquet")
        if not storage.exists(known):
            self.executor.call(snapshot.write_known_faults, dataset=self.dataset, known=known)
        return known

    def _each(self, name: str, total: int | None, reports: Iterator[Report]) -> list[Report]:
        """Collect the small reports of a stage, showing its progress."""
        found = []
        with self.stage(name, total) as advance:
            for report in reports:
                advance(report["rows"])
                self.telemetry.add("raytrain_prepare_rows_total", report["rows"], stage=name)
                own = zip(report["peak"], self.peaks.get(name, (0.0, 0.0)), strict=True)
                self.peaks[name] = Peak(*map(max, own))
                found.append(report)
                self._beat()
        return found

    def _beat(self) -> None:
        """Signal periodically that this run is alive, so that no other run treats its files as
        abandoned."""
        if time.monotonic() - self.beaten > BEAT_SECONDS:
            storage.write_bytes(self._at(ALIVE), b"")
            self.beaten = time.monotonic()

    def _at(self, *parts: str) -> str:
        return storage.join(self.work, *parts)


def prepare(
    config: Config,
    executor: Executor | None = None,
    show: Show = SILENT,
    *,
    rehearsed: bool = False,
) -> PrepareReport:
    """Bring the dataset up to date and return what was done. Without an executor the work is done
    on the Ray this process is connected to, or in processes of this machine. `rehearsed`: with a
    few images that stand for all.

    Raises UserError for a wrong source, model or setting, a full disk, or when no image is usable;
    the previous dataset then stays valid. Single bad images are rejected with their reason and
    listed.
    """
    start = time.monotonic()
    storage.check_writable("the dataset's folder", "data.dataset", config.dataset)
    with chosen(executor) as executor:
        known = executor.call(Fingerprint.of, config=config)
        encode = config.data.encode
        keys = "data.encode.cpus_per_worker, gpus_per_worker"
        one = Need("An encoding worker", encode.cpus_per_worker, encode.gpus_per_worker, 1, keys)
        executor.await_room(one, config.cluster.wait_minutes, show.warn)
        for note in executor.call(of_sources, config=config):
            show.warn(f"note: {note}")
        earlier = snapshot.read_manifest(config.dataset)
        with show.stages() as stage:
            preparation = Preparation(config, known, stage, executor, rehearsed)
            published = preparation.run()
    _tidy(config.dataset, preparation.work)
    return conclude(preparation, published, earlier, time.monotonic() - start)


def _tidy(dataset: str, own: str) -> None:
    """Delete this run's working tables, and those of runs that were killed long ago."""
    folder = storage.join(dataset, "work")
    for name in storage.names(folder):
        work = storage.join(folder, name)
        if (
            work == own
            or time.time() - storage.modified(storage.join(work, ALIVE)) > STALE_SECONDS
        ):
            storage.remove(work)
