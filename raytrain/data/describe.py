"""From chosen pictures to the rows a dataset should have: buckets, transforms, captions and content addresses. Tasks.

Pure arithmetic on each picture's size, hash and captions: a million rows take seconds, and nothing is opened.
"""

from __future__ import annotations

import functools
from typing import Any

import pyarrow as pa

from raytrain import storage
from raytrain.data import buckets, tables
from raytrain.data.caption_text import compose
from raytrain.data.recipe import Recipe, address
from raytrain.data.schema import CONTROLS, MASKS, MOMENTS, TEXT, bucket_name
from raytrain.data.transform import colour_free, transforms
from raytrain.dataconfig import DataConfig

FOLDERS = tables.DESCRIBED | {"rejected": tables.REJECTED}


def describe(
    job: dict[str, Any], data: DataConfig, recipe: Recipe, seed: int, mean_ratio: float, work: str
) -> dict[str, Any]:
    """Describe the pictures of one row group: parts of the tables `rows`, `arrays`, `captions` and `rejected` under `work`."""
    lines = tables.read_group(job["uri"], job["group"]).to_pylist()
    found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in FOLDERS}
    describer = _Describer(data, recipe, seed, mean_ratio)
    for line in lines:
        describer.add(line, found)
    for name, schema in FOLDERS.items():
        if found[name]:
            columns = [
                pa.array(values, kind)
                for values, kind in zip(zip(*found[name], strict=True), schema.types, strict=True)
            ]
            uri = storage.join(work, name, f"{job['group']:06d}.parquet")
            tables.write_groups(uri, [pa.Table.from_arrays(columns, schema=schema)], schema)
    return {"rows": len(lines), "described": len(found["rows"])}


class _Describer:
    def __init__(self, data: DataConfig, recipe: Recipe, seed: int, mean_ratio: float) -> None:
        self.data, self.seed = data, seed
        self.fits = functools.cache(lambda width, height: buckets.fits(width, height, data.buckets, mean_ratio))
        self.prefixes = {transparent: recipe.prefixes(transparent) for transparent in (False, True)}
        self.masks, self.controls = bool(recipe.mask_version), bool(recipe.control_version)

    def add(self, line: dict[str, Any], found: dict[str, list[tuple[Any, ...]]]) -> None:
        fits = self.fits(line["width"], line["height"])
        if not fits:
            reason = f"{line['width']}x{line['height']} fills no bucket and data.buckets.upscale is off"
            found["rejected"].append((line["path"], reason, "size", ""))
            return
        captions = compose(
            line["captions"],
            self.data.captions,
            prefix=line["prefix"],
            suffix=line["suffix"],
            regularisation=line["regularisation"],
            quality=line["quality"],
            identity=line["id"].hex(),
            seed=self.seed,
        )
        texts = [(address(self.prefixes[False][TEXT], text.encode()), text) for text in captions]
        for fit in fits:
            arrays = self._arrays(line, fit)
            bucket = bucket_name(*fit.bucket)
            keys = [key for _, _, key, *_ in arrays] + [key for key, _ in texts]
            row_key = address(line["id"], bucket.encode().ljust(16), *keys)
            found["arrays"] += [(row_key, *array) for array in arrays]
            found["captions"] += [(row_key, number, *text) for number, text in enumerate(texts)]
            found["rows"].append((
                row_key, line["number"], line["id"], line["mask_id"], line["control_id"], bucket,
                line["path"], line["location"], line["mask"], line["control"], line["height"], line["width"],
                line["repeats"], line["weight"], line["regularisation"], line["scores"],
            ))  # fmt: skip

    def _arrays(self, line: dict[str, Any], fit: buckets.Fit) -> list[tuple[Any, ...]]:
        """Return (store, version, key, transform, crop top, crop left) of every array of a picture in one bucket."""
        identity, prefixes, arrays = line["id"], self.prefixes[line["transparent"]], []
        versions = transforms(
            line["width"], line["height"], fit, self.data.buckets, self.data.augment,
            identity.hex(), self.seed, line["centre"] and tuple(line["centre"]),
        )  # fmt: skip
        size = bucket_name(*fit.bucket).encode()
        for number, version in enumerate(versions):
            crop = version.crop_top, version.crop_left
            text = version.to_json()
            arrays.append((MOMENTS, number, address(prefixes[MOMENTS], identity, size, text.encode()), text, *crop))
            if self.masks or self.controls:
                text = colour_free(version).to_json()
            for wanted, store, other in ((self.masks, MASKS, "mask_id"), (self.controls, CONTROLS, "control_id")):
                if wanted:
                    own = line[other] or bytes(32)
                    arrays.append(
                        (store, number, address(prefixes[store], identity, own, size, text.encode()), text, *crop)
                    )
        return arrays
