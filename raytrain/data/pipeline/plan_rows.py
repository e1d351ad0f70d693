"""From the images that are kept to the rows a dataset should have: buckets, transforms,
captions and content addresses. Tasks.

Pure arithmetic on each image's size, hash and captions: a million rows take seconds, and nothing
is opened.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from raytrain import storage
from raytrain.config.data import DataConfig
from raytrain.data import buckets, columns
from raytrain.data.annotate.caption_text import compose, settled, site_unsaid
from raytrain.data.annotate.versions import tools_of
from raytrain.data.image.ready import Facts
from raytrain.data.image.transform import color_free, transforms
from raytrain.data.pipeline import ready_latents
from raytrain.data.store import tables
from raytrain.data.store.fingerprint import Fingerprint, address
from raytrain.data.store.schema import bucket_name

ENLARGED, CROPPED = 2, 0.5
"""Beyond this factor of a side, and this share of the area that is cut off, an image is noted."""
FOLDERS = tables.PLANNED | {"rejected": tables.REJECTED}


def plan_rows(
    job: dict[str, Any],
    data: DataConfig,
    fingerprint: Fingerprint,
    seed: int,
    mean_ratio: float,
    images: int,
    work: str,
) -> dict[str, Any]:
    """Plan the rows of the images of one row group: parts of the tables `rows`,
    `arrays` and `rejected` under `work`."""
    lines = tables.read_group(job["uri"], job["group"]).to_pylist()
    found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in FOLDERS}
    planner = _Planner(data, fingerprint, seed, mean_ratio, images)
    site = [site_unsaid(line["site"], data.captions) for line in lines]
    faceless = sum(not _face(line) for line in lines) if data.augment.faces else 0
    for line in lines:
        planner.add(line, found)
    for name, schema in FOLDERS.items():
        if found[name]:
            content = zip(zip(*found[name], strict=True), schema.types, strict=True)
            filled = [pa.array(values, kind) for values, kind in content]
            uri = storage.join(work, name, f"{job['group']:06d}.parquet")
            tables.write_groups(uri, [pa.Table.from_arrays(filled, schema=schema)], schema)
    return {
        "rows": len(lines),
        "planned": len(found["rows"]),
        "unsaid": sum(unsaid for unsaid, _ in site),
        "unheard": sum(unheard for _, unheard in site),
        "faceless": faceless,
        **planner.strained,
    }


def _face(line: dict[str, Any]) -> tuple[float, ...] | None:
    """Return the largest face of an image; None where none was found or looked for."""
    return tuple(line["face"]) if line["face"] and line["face"][2] else None


class _Planner:
    def __init__(
        self,
        data: DataConfig,
        fingerprint: Fingerprint,
        seed: int,
        mean_ratio: float,
        images: int,
    ) -> None:
        self.data, self.fingerprint, self.seed, self.count = data, fingerprint, seed, images
        self.fits = functools.cache(
            lambda width, height: buckets.fits(width, height, data.buckets, mean_ratio)
        )
        self.prefixes = functools.cache(fingerprint.prefixes)
        self.images = {name: columns.load(name) for name in fingerprint.names("image")}
        self.captions = fingerprint.names("caption")
        self.strained = {"enlarged": 0, "cropped": 0}
        """Images that are enlarged more than ENLARGED times, or lose more than CROPPED."""
        self.caption_rules = functools.cache(lambda own: settled(data.captions, own))

    def add(self, line: dict[str, Any], found: dict[str, list[tuple[Any, ...]]]) -> None:
        if line["ready"]:
            own = Facts.from_json(line["ready"]).bucket
            fits: tuple[buckets.Fit, ...] = (buckets.Fit(own, own),)
            if reason := ready_latents.refused(line, self.data, self.fingerprint):
                found["rejected"].append((line["path"], reason, "broken", ""))
                return
        else:
            fits = self.fits(line["width"], line["height"])
        if not fits:
            reason = (
                f"{line['width']}x{line['height']} fills no bucket and data.buckets.upscale is off"
            )
            found["rejected"].append((line["path"], reason, "size", ""))
            return
        self._strain(line, fits)
        captions = compose(
            line["captions"],
            self.caption_rules(line["caption_settings"]),
            prefix=line["prefix"],
            suffix=line["suffix"],
            regularization=line["regularization"],
            quality=line["quality"],
            site=line["site"],
            identity=line["id"].hex(),
            seed=self.seed,
        )
        texts = [
            (name, number, address(self.prefixes()[name], text.encode()), text, 0, 0)
            for name in self.captions
            for number, text in enumerate(captions)
        ]
        for fit in fits:
            arrays = self._arrays(line, fit) + texts
            bucket = bucket_name(*fit.bucket)
            row_key = address(
                line["id"], bucket.encode().ljust(16), *(key for _, _, key, *_ in arrays)
            )
            found["arrays"] += [(row_key, *array) for array in arrays]
            found["rows"].append((
                row_key, line["number"], line["id"], line["mask_id"], line["control_id"], bucket,
                line["path"], line["location"], line["mask"], line["control"], line["height"],
                line["width"], line["repeats"], line["weight"], line["regularization"],
                line["held_out"], line["subset"], line["scores"], captions,
            ))  # fmt: skip

    def _strain(self, line: dict[str, Any], fits: Sequence[buckets.Fit]) -> None:
        """Count an image that no bucket suits well."""
        factor = min(fit.resized[0] / line["width"] for fit in fits)
        kept = max(math.prod(fit.bucket) / math.prod(fit.resized) for fit in fits)
        self.strained["enlarged"] += factor > ENLARGED
        self.strained["cropped"] += kept < 1 - CROPPED

    def _arrays(self, line: dict[str, Any], fit: buckets.Fit) -> list[tuple[Any, ...]]:
        """Return (column, version, key, transform, crop top, crop left)
        of every array of an image in one bucket."""
        identity, arrays = line["id"], []
        ready = Facts.from_json(line["ready"]) if line["ready"] else None
        if ready:
            versions = ready_latents.versions(line, self.data.augment.flip)
        else:
            versions = transforms(
                line["width"], line["height"], fit, self.data.buckets, self.data.augment,
                identity.hex(), self.seed, line["center"] and tuple(line["center"]),
                face=_face(line), images=self.count,
            )  # fmt: skip
        size = bucket_name(*fit.bucket).encode()
        for number, version in enumerate(versions):
            plain, colored = color_free(version).to_json(), version.to_json()
            prefixes = self.prefixes(
                line["transparent"], () if ready else tools_of(self.data, line["width"], version)
            )
            for name, kind in self.images.items():
                text = colored if kind.COLORS else plain
                own = [line[f"{kind.COMPANION}_id"] or bytes(32)] if kind.COMPANION else []
                key = address(prefixes[name], identity, *own, size, text.encode())
                top = ready.crop_top if ready else version.crop_top
                left = ready.crop_left if ready else version.crop_left
                arrays.append((name, number, key, text, top, left))
        return arrays
