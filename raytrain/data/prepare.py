"""Pictures in, dataset out: `prepare(config)` brings the dataset folder to what the source and the settings say.

    scan -> inspect -> caption -> plan <-> encode -> finish (manifest last)

Planning compares content addresses with what is on storage, so only what is missing is encoded, whatever happened
before. Encoding is repeated until the plan finds nothing left to do; then, and only then, the manifest is replaced.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console

from raytrain import storage
from raytrain.config import Config
from raytrain.data import bucket, captions, flow, index, inspection, plan, progress, write
from raytrain.data.encode import ShardEncoder, ShardReport
from raytrain.data.index import Row, Stored
from raytrain.data.plan import Hashes, Picture
from raytrain.data.progress import Bars
from raytrain.data.report import SHOWN, PrepareReport, show
from raytrain.data.scan import Rejected, scan
from raytrain.data.schema import MANIFEST, BucketCount, Manifest, bucket_size
from raytrain.errors import UserError

PASSES = 3
"""Encoding rounds at most: a picture that fails in the first may change a small set's split, so a second may copy."""


class _Model(NamedTuple):
    """What preparation must know of the base model."""

    hashes: Hashes
    latent_channels: int
    latent_factor: int


class _Encoded(NamedTuple):
    """The outcome of all encoding rounds."""

    rows: list[Row]
    stored: dict[str, Stored]
    kept: dict[str, set[int]]
    empty: bytes
    reports: list[ShardReport]
    rejected: list[Rejected]


def prepare(config: Config, console: Console | None = None) -> PrepareReport:
    """Bring the dataset up to date and return what was done. Ray must be connected.

    Raises UserError for a wrong source, model or setting, a full disk, or when no picture is usable; the previous
    dataset then stays valid. Single bad pictures are rejected with their reason and listed in the report.
    """
    start = time.monotonic()
    console = console or Console()
    model = _model(config)
    if config.cluster.address == "local":
        flow.check_room(config.data.encode)
    found, rejected = scan(config.data.source)
    with progress.bars(console) as bars:
        pictures, faults = inspection.inspect(found, config.data, bars)
        _require(pictures, [*rejected, *faults])
        pictures, known = _without_known_faults(pictures, config, model)
        captioned, unreadable, made = captions.complete(pictures, config, bars)
        encoded = _encode(captioned, config, model, bars)
    rejected += [*faults, *known, *unreadable, *encoded.rejected]
    _require(encoded.rows, rejected)
    notes = _notes(config, model)
    manifest = _manifest(config, model, encoded, len(rejected))
    write.finish(config.dataset, manifest, encoded.empty, rejected)
    report = PrepareReport(
        found=len(found),
        kept=len(encoded.rows),
        encoded_pictures=sum(item.pictures for item in encoded.reports),
        encoded_captions=sum(item.captions for item in encoded.reports),
        reused=len(encoded.rows) - sum(item.encoded for item in encoded.reports),
        captioned=made,
        uncaptioned=sum(row.caption in ("", config.data.captions.trigger) for row in encoded.rows),
        rejected=tuple(rejected),
        buckets=manifest.buckets,
        fingerprint=manifest.fingerprint,
        notes=notes,
        seconds=time.monotonic() - start,
    )
    show(report, console)
    return report


def _model(config: Config) -> _Model:
    """Check the model folder and the buckets against its VAE, before anything is read or encoded."""
    from raytrain import families
    from raytrain.families import _weights

    family = families.load(config.model.family)
    _weights.check_components(config.model, family)
    root, name = _weights.vae_source(config.model)
    vae = _weights.read_config(root / name, "config.json")
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    for width, height in bucket.sizes(config.data.buckets):
        if width % factor or height % factor:
            raise UserError(
                f"Every side of a bucket must be a multiple of {factor}, the VAE's pixels per latent, but "
                f"[data.buckets] gives {width}x{height}; it could not be encoded. Make `step` a multiple of {factor}."
            )
    text_hash = _weights.text_hash(config.model, family.TEXT_COMPONENTS)
    hashes = Hashes(_weights.vae_hash(config.model), text_hash, config.data.encode.precision)
    return _Model(hashes, int(vae.get("latent_channels", 4)), factor)


def _encode(pictures: Sequence[Picture], config: Config, model: _Model, bars: Bars) -> _Encoded:
    """Plan and encode until everything wanted is stored, leaving out what cannot be encoded."""
    data, empty_key = config.data, plan.text_key("", model.hashes)
    rejected: list[Rejected] = []
    reports: list[ShardReport] = []
    empty = write.read_empty(config.dataset)
    for _ in range(PASSES):
        rows = plan.rows(pictures, data, config.seed, model.hashes)
        stored = index.read(config.dataset)
        todo = plan.compare(rows, stored)
        jobs = plan.jobs(todo.work, data.encode.shard_rows, data.encode.group_rows, data.encode.workers)
        if write.empty_shapes(empty, empty_key) is None:
            jobs.insert(0, plan.empty_job())
        if not jobs:
            return _Encoded(rows, stored, todo.kept, empty, reports, rejected)
        advance = bars("encode", len(todo.work))
        for report, content in _run(jobs, config, model, empty_key):
            empty = content or empty
            reports.append(report)
            rejected += report.rejected
            advance(report.rows)
        pictures = _without(pictures, rejected)
    raise RuntimeError(f"{len(todo.work)} rows are still missing from {config.dataset!r} after {PASSES} rounds")


def _run(
    jobs: Sequence[list[plan.Work]], config: Config, model: _Model, empty_key: str
) -> Iterator[tuple[ShardReport, bytes]]:
    settings = {"config": config, "text_key": empty_key, "latent_factor": model.latent_factor}
    blocks = [plan.to_block(job) for job in jobs]
    for row in flow.map_actors(blocks, ShardEncoder, settings, config.data.encode):
        report = ShardReport.model_validate_json(row["report"])
        if report.error:
            raise UserError(report.error)
        yield report, row["empty"]


def _without_known_faults(
    pictures: Sequence[Picture], config: Config, model: _Model
) -> tuple[list[Picture], list[Rejected]]:
    """Leave out what the last preparation failed on with the same bytes and settings: it would fail again."""
    known = {item.key: item.reason for item in write.read_rejected(config.dataset) if item.key}
    rows = plan.rows(pictures, config.data, config.seed, model.hashes)
    rejected = [Rejected(path=row.path, reason=known[row.latent_key], key=row.latent_key)
                for row in rows if row.latent_key in known]  # fmt: skip
    return _without(pictures, rejected), rejected


def _without(pictures: Sequence[Picture], rejected: Sequence[Rejected]) -> list[Picture]:
    faulty = {item.path for item in rejected}
    return [item for item in pictures if item.path not in faulty]


def _require(usable: Sequence[object], rejected: Sequence[Rejected]) -> None:
    if not usable:
        reasons = "\n".join(f"  {item.path}: {item.reason}" for item in rejected[:SHOWN])
        raise UserError(
            f"A dataset needs at least one usable picture, but all {len(rejected)} of data.source were rejected:\n"
            f"{reasons}\nNo dataset was written; an earlier one is as it was. Mend or replace the pictures."
        )


def _manifest(config: Config, model: _Model, encoded: _Encoded, rejected: int) -> Manifest:
    counts: dict[str, Counter[str]] = {}
    for row in encoded.rows:
        counts.setdefault(row.bucket, Counter())[row.split] += 1
    shapes = write.empty_shapes(encoded.empty, plan.text_key("", model.hashes))
    assert shapes is not None
    return Manifest(
        family=config.model.family,
        vae_hash=model.hashes.vae,
        text_hash=model.hashes.text,
        fingerprint=index.fingerprint(encoded.rows),
        latent_channels=model.latent_channels,
        latent_factor=model.latent_factor,
        text_shapes=shapes,
        buckets={name: BucketCount(**counts[name]) for name in sorted(counts, key=bucket_size)},
        shards=write.shards(encoded.stored, encoded.kept),
        rejected=rejected,
        settings=config.data.model_dump(mode="json"),
    )


def _notes(config: Config, model: _Model) -> tuple[str, ...]:
    """Say why an earlier dataset could not be reused."""
    uri = storage.join(config.dataset, MANIFEST)
    if not storage.exists(uri):
        return ()
    old = storage.read_json(uri)
    notes = []
    if old.get("family") != config.model.family:
        notes.append(
            f"the earlier dataset was made for family {old.get('family')!r}, this one is for {config.model.family!r}"
        )
    if old.get("vae_hash") != model.hashes.vae:
        notes.append("the earlier dataset was made with another VAE: every picture was encoded again")
    if old.get("text_hash") != model.hashes.text:
        notes.append("the earlier dataset was made with other text encoders: every caption was encoded again")
    return tuple(notes)
