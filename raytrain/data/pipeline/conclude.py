"""What a preparation says of itself when it has published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain import effective, storage
from raytrain.data.item import UNUSED, Rejected
from raytrain.data.pipeline.executor import Report
from raytrain.data.pipeline.notes import notes
from raytrain.data.pipeline.report import BROKEN, SHOWN, PrepareReport
from raytrain.data.pipeline.used import used
from raytrain.data.store import snapshot, tables
from raytrain.data.store.schema import Manifest
from raytrain.errors import UserError

if TYPE_CHECKING:
    from raytrain.data.prepare import Preparation


def conclude(
    done: Preparation, published: Report, earlier: Manifest | None, seconds: float
) -> PrepareReport:
    """Return what was done, and keep the settings that were used; UserError where no row is
    left."""
    rejected_path = storage.join(done.dataset, published["rejected_path"])
    rejected, unused = _first_rejected(rejected_path)
    if not published["rows"]:
        reasons = "\n".join(f"  {item.path}: {item.reason}" for item in rejected)
        raise UserError(
            f"A dataset needs at least one usable image, but all {done.counts['found']} of the "
            "source were left out:\n"
            f"{reasons}\nNo dataset was written; an earlier one is unchanged. Repair or replace "
            "the images, or change [data.quality]."
        )
    manifest = snapshot.read_snapshot(done.dataset, published["number"])
    call, on_ray = done.executor.call, done.executor.machine is None
    settings = call(used, config=done.config, manifest=manifest, on_ray=on_ray)
    cut = max(done.cut.values(), default=0)  # the same captions in every column
    said = call(
        notes, config=done.config, earlier=earlier, manifest=manifest, cut=cut,
        planned=done.planned,
    )  # fmt: skip
    return PrepareReport(
        found=done.counts["found"],
        scanned=done.counts["scanned"],
        kept=published["rows"],
        made=dict(done.made),
        annotated=done.annotated,
        reused=done.counts["reused"],
        uncaptioned=published["uncaptioned"],
        cut=cut,
        rules=published["rules"],
        rejected=tuple(rejected),
        unused=tuple(unused),
        rejected_path=rejected_path,
        buckets=manifest.buckets,
        snapshot=manifest.number,
        fingerprint=manifest.fingerprint,
        peaks=done.peaks,
        effective=effective.keep(done.config.output, "prepare", settings),
        notes=(*done.said, *said),
        seconds=seconds,
    )


def _first_rejected(uri: str) -> tuple[list[Rejected], list[Rejected]]:
    """Return the first rejected images, broken ones before those a filter left out,
    and the first files that nothing uses."""
    found: dict[str, list[Rejected]] = {BROKEN: [], "": [], UNUSED: []}
    for row in tables.read(uri, tables.REJECTED):
        kind = found.get(row["rule"], found[""])
        if len(kind) < SHOWN:
            kind.append(Rejected(**row))
    return (found[BROKEN] or found[""])[:SHOWN], found[UNUSED]
