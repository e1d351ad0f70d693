"""A page of what training sees: some images of every bucket as they were cut, with captions,
masks and all versions.

No model is needed: each image is read where it was prepared from and cut again, and a cut is shown
only if the content address that follows from it is that of the stored array. So the page shows the
pixels the VAE was given, or says why not; a version that a model helps to make is drawn without.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from raytrain import storage
from raytrain.config.data import DataConfig
from raytrain.data import buckets
from raytrain.data.columns import CONTROL, MASK
from raytrain.data.image.image import BadImage
from raytrain.data.image.opening import opened
from raytrain.data.image.render import pixels
from raytrain.data.image.transform import Placement, Transform, transforms
from raytrain.data.store import tables
from raytrain.data.store.fingerprint import address, prefix
from raytrain.data.store.schema import HELD_OUT, Manifest, bucket_size
from raytrain.data.tools.browse import Row, open_snapshot, places, rows_table, shown, size
from raytrain.errors import UserError

LATENTS = "latents"
"""The column whose cuts are shown."""
PER_BUCKET = 12
LARGE, SMALL = 512, 160
"""Longest side in pixels at which an image and its further versions are drawn;
larger ones are shrunk for the page."""
THREADS = 4
_SAMPLE = """
    SELECT * EXCLUDE (place) FROM (SELECT *,
      row_number() OVER (PARTITION BY bucket, split ORDER BY id) AS place FROM rows)
    WHERE place <= CASE WHEN split = $held_out THEN ceil($number / 4)
      ELSE $number END ORDER BY bucket, split DESC, id
"""


@dataclass
class Version:
    """One stored version of an image."""

    name: str
    uri: str
    """The image as a data URI; empty where it could not be drawn again."""
    width: int = 0
    height: int = 0


@dataclass
class Shown:
    """One row on the page."""

    row: Row
    versions: list[Version] = field(default_factory=list)
    mask: str = ""
    """Where the loss does not count, as a data URI of an image with transparency."""
    control: str = ""
    problem: str = ""


def write_gallery(
    dataset: str,
    which: str = "latest",
    target: str = "",
    per_bucket: int = PER_BUCKET,
    seed: int = 0,
) -> str:
    """Write the page (default: `<dataset>/preview.html`) and return where it is;
    `seed` is that of the dataset's config.

    Raises UserError where none of the images can be read any more.
    """
    manifest = open_snapshot(dataset, which)
    data = DataConfig.model_validate(manifest.settings)
    with tables.database() as sql:
        sql.register("rows", rows_table(dataset, manifest))
        query = {"held_out": HELD_OUT, "number": per_bucket}
        rows = sql.sql(_SAMPLE, params=query).to_arrow_table().to_pylist()
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda row: _Drawer(dataset, manifest, data, seed).draw(row), rows))
    if not any(one.versions for one in found):
        raise UserError(
            f"None of the {len(found)} images to show can be read where they were prepared from, "
            f"the first ({shown(found[0].row['path'])}) because: {found[0].problem}. Bring the "
            "source back, or prepare again."
        )
    uri = target or storage.join(dataset, "preview.html")
    storage.write_bytes(uri, _render(dataset, manifest, found, per_bucket).encode())
    return uri


class _Drawer:
    def __init__(self, dataset: str, manifest: Manifest, data: DataConfig, seed: int) -> None:
        self.dataset, self.manifest, self.data, self.seed = dataset, manifest, data, seed
        self.prefixes: dict[bytes, tuple[str, ...]] = {}
        if LATENTS in manifest.columns:
            column = manifest.columns[LATENTS]
            made_by = [
                each
                for number in range(len(column.tools) + 1)
                for each in itertools.combinations(column.tools, number)
            ]
            self.prefixes = {
                prefix(LATENTS, column, background, tools): tools
                for background in ("", data.background)
                for tools in made_by
            }

    def draw(self, row: Row) -> Shown:
        """Read a row's image and cut its versions again."""
        found = opened(row, self.data, alpha=False, mask=False, control=False)
        if isinstance(found, BadImage):
            return Shown(row, problem=str(found))
        result, bucket = Shown(row), bucket_size(row["bucket"])
        candidates = {one.to_json(): one for one in self._candidates(row)}
        for number, (path, at) in enumerate(places(row, self.manifest, LATENTS)):
            cuts = {one.to_json(): one for one in self._cuts(row, number)}
            key = _value(self.dataset, path, at, "key")
            found_by = self._proven(row, key, cuts | candidates)
            if found_by is None:
                result.versions.append(
                    Version(
                        "not drawn: around a face, or made with another seed or other settings", ""
                    )
                )
                continue
            transform, tools = found_by
            image = Image.fromarray(
                pixels(found.image, transform, bucket, self.data.buckets.resample)
            )
            result.versions.append(
                Version(
                    _name(transform, number, tools), *_image(image, SMALL if number else LARGE)
                )
            )
        if (mask := self._layer(row, MASK)) is not None:
            result.mask = _veil(mask)
        if (control := self._layer(row, CONTROL)) is not None:
            result.control = _image(Image.fromarray(control.transpose(1, 2, 0)), SMALL)[0]
        return result

    def _layer(self, row: Row, name: str) -> np.ndarray | None:
        """Return the stored array of the first version in column `name`;
        None where there is no such column."""
        for path, at in places(row, self.manifest, name)[:1]:
            array = self.manifest.columns[name].arrays[name]
            content = np.frombuffer(_value(self.dataset, path, at, name), array.dtype)
            return content.reshape(array.shape_in(row["bucket"]))
        return None

    def _proven(
        self, row: Row, key: bytes, candidates: dict[str, Transform]
    ) -> tuple[Transform, tuple[str, ...]] | None:
        """Return the transform, and the tools, that give the content address of the stored
        array."""
        bucket = row["bucket"].encode()
        for text, transform in candidates.items():
            for start, tools in self.prefixes.items():
                if address(start, row["id"], bucket, text.encode()) == key:
                    return transform, tools
        return None

    def _fits(self, row: Row) -> list[buckets.Fit]:
        """Return how the image may have been resized for its bucket: by the rule,
        or just covering it."""
        wanted, config = bucket_size(row["bucket"]), self.data.buckets
        alone = config.model_copy(update={"sizes": (wanted,), "resolutions": (), "upscale": True})
        rules = (alone,) if buckets.needs_mean(config) else (config, alone)
        found = (
            fit
            for rule in rules
            for fit in buckets.fits(row["original_width"], row["original_height"], rule)
        )
        return list(dict.fromkeys(fit for fit in found if fit.bucket == wanted))

    def _cuts(self, row: Row, number: int) -> Iterator[Transform]:
        """Yield the plain cut at the place that the row names, and its mirror image."""
        place = row[LATENTS][number]
        for fit in self._fits(row):
            for flip in (False, True):
                yield Transform(
                    Placement(*fit.resized, place["crop_top"], place["crop_left"]), flip
                )

    def _candidates(self, row: Row) -> Iterator[Transform]:
        """Yield the augmented versions that the settings and the seed give,
        at every place that the row names too."""
        for fit in self._fits(row):
            for one in transforms(
                row["original_width"],
                row["original_height"],
                fit,
                self.data.buckets,
                self.data.augment,
                row["id"].hex(),
                self.seed,
                images=1,  # as many copies as a set may have
            ):
                yield one
                for place in row[LATENTS]:
                    at = {"top": place["crop_top"], "left": place["crop_left"]}
                    yield one._replace(placement=one.placement._replace(**at))


@lru_cache(maxsize=64)
def _column(dataset: str, path: str, name: str) -> list[bytes]:
    filesystem, inner = storage.resolve(storage.join(dataset, path))
    return list(
        pq.read_table(inner, columns=[name], filesystem=filesystem, partitioning=None)[
            name
        ].to_pylist()
    )


def _value(dataset: str, path: str, row: int, name: str) -> bytes:
    """Return one value of a shard: a content address, or an array's bytes,
    of which only its row group is read."""
    if name == "key":
        return _column(dataset, path, name)[row]
    filesystem, inner = storage.resolve(storage.join(dataset, path))
    with pq.ParquetFile(inner, filesystem=filesystem) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                return bytes(file.read_row_group(group, columns=[name])[name][row].as_py())
            row -= rows
    raise IndexError(f"{path!r} has no row {row}")


def _name(transform: Transform, number: int, tools: tuple[str, ...]) -> str:
    parts = [f"drawn without its {tool.replace('_', ' ')}" for tool in tools]
    parts += ["extended"] if transform.inset else []
    parts += ["other colors"] if transform.color else []
    parts += ["mirrored"] if transform.flip else []
    return ", ".join(parts) or (f"cut {number + 1}" if number else "as it is")


def _image(image: Image.Image, longest: int) -> tuple[str, int, int]:
    """Return an image as a data URI, and its size."""
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return _uri(image, "WEBP", quality=90), *image.size


def _veil(mask: np.ndarray) -> str:
    """Return a mask (h, w) as a veil: the less a place counts in the loss,
    the more of it is covered."""
    veil = np.zeros((*mask.shape, 4), np.uint8)
    veil[..., 0], veil[..., 2] = 255, 90
    veil[..., 3] = (255 - mask.astype(np.int32)) * 7 // 10
    return _uri(Image.fromarray(veil), "PNG")


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _render(dataset: str, manifest: Manifest, found: list[Shown], per_bucket: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raytrain.data.tools", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    groups = {
        name: [one for one in found if one.row["bucket"] == name] for name in manifest.buckets
    }
    rows = sum(count.train + count.held_out for count in manifest.buckets.values())
    return environment.get_template("gallery.html").render(
        name=dataset.rstrip("/"),
        manifest=manifest,
        groups=groups,
        rows=rows,
        shown=sum(bool(one.versions) for one in found),
        missing=[one for one in found if one.problem],
        undrawn=sum(not version.uri for one in found for version in one.versions),
        bytes=size(manifest.bytes),
        per_bucket=per_bucket,
        masks=any(one.mask for one in found),
        scores=[
            score.name for score in DataConfig.model_validate(manifest.settings).quality.scores
        ],
    )
