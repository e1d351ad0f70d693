"""What models say of images: scores, captions, rewritten captions, the center of a mask.

An annotation is stored under the hash of its maker's version and of what it was made from, so it
is made once, whatever happens to the run, the buckets or the VAE. A stage finds the images without
an annotation, has actors write the missing ones, and joins the annotations to the images.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from raytrain import plugins, storage
from raytrain.config.data import DataConfig, MaskConfig
from raytrain.data.annotate.cut import Cut
from raytrain.data.image.image import DECODING, BadImage
from raytrain.data.image.opening import Passing, ahead, opened, sound
from raytrain.data.store import tables
from raytrain.errors import UserError

BLOCK = 128
"""Images of one job: what a killed worker loses."""
_NEED = """
    SELECT * EXCLUDE shown_on,
           unhex(sha256($version::BLOB || id || {made_from} || shown_on)) AS key
    FROM (SELECT *, CASE WHEN transparent THEN encode($background) ELSE ''::BLOB END AS shown_on
      FROM images)
    WHERE {condition}
"""

_SHOWN = "unhex('{}') || coalesce(encode(to_json(center)::VARCHAR), ''::BLOB)"


class Stage(NamedTuple):
    """One maker of annotations."""

    kind: Literal["score", "caption", "rewrite", "center", "face"]
    name: str
    version: bytes
    """The hash of all that its annotations depend on besides the image."""
    maker: str
    """For people: name, weights, prompt and version as JSON."""
    condition: str = "true"
    """SQL: the images it is asked about."""
    made_from: str = "''::BLOB"
    """SQL: what an annotation depends on besides the image."""
    number: int = 0
    """Place in [[data.quality.scores]]."""
    background: str = ""
    """What transparent images are shown on; empty where no image is shown."""
    cut: Cut | None = None
    """What of an image is shown; None: all of it."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What the SQL of `_need` takes."""
        return {"version": self.version, "background": self.background}


def stages(data: DataConfig, cut: Cut, images: int) -> list[Stage]:
    """Return what the settings ask for of so many images, in order: cheap filters and centers,
    which decide the `cut`, before captions, captions before what changes them."""
    maker = functools.partial(_maker, largest=data.max_side)
    found = [
        Stage("score", score.name, *maker("scores", score.kind, score), number=number)
        for number, score in enumerate(data.quality.scores)
    ]
    if data.buckets.crop == "salience":
        own = maker("masks", data.masks.kind, data.masks)
        found.append(
            Stage("center", data.masks.kind, *own, made_from="coalesce(mask_id, ''::BLOB)")
        )
    if data.augment.faces:
        found.append(Stage("face", "face", *maker("masks", "face", _face_config(data))))
    captions = data.captions
    if captions.captioner != "none":
        condition = "true" if captions.replace else "len(captions) = 0"
        found.append(
            Stage(
                "caption",
                captions.captioner,
                *maker("captioners", captions.captioner, captions),
                condition,
                _SHOWN.format(cut.version) if captions.cropped else "''::BLOB",
                cut=cut if captions.cropped else None,
            )
        )
    if captions.rewrites(images):
        made_from = "encode(to_json(captions)::VARCHAR)"
        own = maker("rewriters", captions.rewriter, captions)
        found.append(Stage("rewrite", captions.rewriter, *own, "len(captions) > 0", made_from))
    return [
        stage if stage.kind == "rewrite" else stage._replace(background=data.background)
        for stage in found
    ]


def write_needed(stage: Stage, images: str, annotations: str, needed: str) -> int:
    """Write the images that have no annotation of this stage to the table `needed`, with its
    address; return their number."""
    with tables.database(
        images=(images, tables.IMAGES), annotations=(annotations, tables.ANNOTATIONS)
    ) as sql:
        found = sql.sql(
            f"SELECT * FROM ({_need(stage)}) ANTI JOIN annotations USING (key) ORDER BY number",
            params=stage.parameters,
        )
        return tables.write(needed, found.to_arrow_reader(BLOCK), tables.NEEDED, BLOCK)


def apply(
    stage: Stage,
    data: DataConfig,
    annotations: str,
    faults: str,
    images: str,
    annotated: str,
    rejected: str,
) -> int:
    """Write the images with what their annotations say; a fault or a value out of range rejects
    one.

    Return those that stay.
    """
    reads = {
        "images": (images, tables.IMAGES),
        "all_annotations": (annotations, tables.ANNOTATIONS),
        "all_faults": (faults, tables.FAULTS),
    }
    with tables.database(**reads) as sql:
        tables.once(sql, "annotations", "all_annotations")
        tables.once(sql, "faults", "all_faults")
        sql.execute(
            f"""CREATE TEMP TABLE joined AS
            WITH needed AS ({_need(stage)})
            SELECT number, path, key, texts, numbers[1] AS value, numbers, reason
            FROM needed LEFT JOIN annotations USING (key) LEFT JOIN faults USING (key)""",
            stage.parameters,
        )
        [missing] = sql.execute(
            "SELECT count(*) FROM joined WHERE texts IS NULL AND value IS NULL AND reason IS NULL"
        ).fetchall()[0]
        if missing:
            raise RuntimeError(
                f"{missing} images have neither an annotation nor a fault of {stage.kind} "
                f"{stage.name!r}"
            )
        bad, reason, rule = _verdict(stage, data)
        lost = sql.sql(
            f"SELECT path, {reason} AS reason, {rule} AS rule, '' AS key FROM joined WHERE {bad} "
            "ORDER BY number"
        )
        tables.write(rejected, lost.to_arrow_reader(tables.GROUP), tables.REJECTED)
        kept = sql.sql(f"""
            SELECT p.* REPLACE ({_changes(stage, data)}) FROM images p LEFT JOIN joined j
              USING (number)
            WHERE j.number IS NULL OR NOT ({bad}) ORDER BY number""")
        return tables.write(annotated, kept.to_arrow_reader(tables.GROUP), tables.IMAGES)


class Annotator:
    """One worker: the model of one stage; writes the annotations of a block of images."""

    def __init__(
        self, data: DataConfig, stage: Stage, annotations: str, faults: str, threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.data, self.stage, self.annotations, self.faults = data, stage, annotations, faults
        self.answer, self.batch = _answers(stage, data), data.encode.batch
        if stage.kind == "rewrite" and _at_once(data) > 1:
            self.batch = BLOCK  # no image is held, and questions are of many captions
        self.pool = ThreadPoolExecutor(max(2, threads))

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """Write the annotations of one row group; those made before a UserError are kept."""
        lines = tables.read_group(job["uri"], job["group"]).to_pylist()
        annotations: list[dict[str, Any]] = []
        faults: list[dict[str, Any]] = []
        try:
            for batch in tables.batched(zip(lines, self._images(lines), strict=True), self.batch):
                good = [(line, entry) for line, entry in batch if not isinstance(entry, BadImage)]
                made = iter(
                    self.answer([line for line, _ in good], [entry for _, entry in good])
                    if good
                    else ()
                )
                for line, entry in batch:
                    said = entry if isinstance(entry, BadImage) else next(made)
                    if isinstance(said, BadImage):
                        faults.append(
                            {
                                "key": line["key"],
                                "reason": str(said),
                                "lasting": not isinstance(said, Passing),
                            }
                        )
                    else:
                        annotations.append(
                            {
                                "key": line["key"],
                                "id": line["id"],
                                "maker": self.stage.maker,
                                **said,
                            }
                        )
        finally:
            self._store(self.annotations, annotations, tables.ANNOTATIONS)
            self._store(self.faults, faults, tables.FAULTS)
        return {"rows": len(lines), "made": len(annotations)}

    def _images(self, lines: Sequence[dict[str, Any]]) -> Any:
        if self.stage.kind == "rewrite":
            return [None] * len(lines)
        layers = self.stage.kind == "center"
        reads = layers and bool(plugins.load("data.masks", self.data.masks.kind).READS_FILE)
        return ahead(
            self.pool,
            lambda line: opened(line, self.data, alpha=layers, mask=reads, control=False),
            lines,
            2 * self.data.encode.batch,
        )

    def _store(self, place: str, lines: list[dict[str, Any]], schema: Any) -> None:
        if lines:
            name = hashlib.sha256(b"".join(line["key"] for line in lines)).hexdigest()
            tables.write_rows(storage.join(place, f"{name}.parquet"), lines, schema)


def _answers(
    stage: Stage, data: DataConfig
) -> Callable[[list[dict[str, Any]], list[Any]], list[Any]]:
    """Load the stage's model; return a function of lines and opened images that gives annotations
    or faults."""
    if stage.kind == "score":
        score = data.quality.scores[stage.number]
        scorer = plugins.load("data.scores", score.kind).load(score)
        return lambda lines, entries: [
            {"numbers": [value]} for value in scorer.score([e.image for e in entries])
        ]
    if stage.kind == "caption":
        captioner = plugins.load("data.captioners", stage.name).load(data.captions)
        return lambda lines, entries: [
            said if isinstance(said, BadImage) else {"texts": [said]}
            for said in captioner.caption(
                [
                    stage.cut.show(line, entry.image) if stage.cut else entry.image
                    for line, entry in zip(lines, entries, strict=True)
                ]
            )
        ]
    if stage.kind == "rewrite":
        rewriter = plugins.load("data.rewriters", stage.name).load(data.captions)
        return lambda lines, entries: _rewritten(
            rewriter.rewrite, [line["captions"] for line in lines]
        )
    return _faces(data) if stage.kind == "face" else _centers(data)


def _at_once(data: DataConfig) -> int:
    """Return how many captions the rewriter puts into one question."""
    module = plugins.load("data.rewriters", data.captions.rewriter)
    return int(getattr(module, "at_once", lambda _: 1)(data.captions))


def _rewritten(rewrite: Callable[[list[str]], list[Any]], captions: list[list[str]]) -> list[Any]:
    """Rewrite all captions of a batch in one call, and hand each image its own;
    one that fails fails its image."""
    said = iter(rewrite([text for own in captions for text in own]))
    found = [list(itertools.islice(said, len(own))) for own in captions]
    return [
        next((text for text in own if isinstance(text, BadImage)), {"texts": own}) for own in found
    ]


def _centers(data: DataConfig) -> Callable[[list[dict[str, Any]], list[Any]], list[Any]]:
    import numpy as np

    from raytrain.data.image.render import center_of_mass

    masker = plugins.load("data.masks", data.masks.kind).load(data.masks)

    def center(entry: Any) -> Any:
        try:
            mask = masker.mask(entry.image, file=sound(entry.mask), alpha=entry.alpha)
        except BadImage as error:
            return error
        return {"numbers": list(center_of_mass(np.asarray(mask)))}

    return lambda lines, entries: [center(entry) for entry in entries]


def _face_config(data: DataConfig) -> MaskConfig:
    return MaskConfig(kind="face", options=data.augment.face_options)


def _faces(data: DataConfig) -> Callable[[list[dict[str, Any]], list[Any]], list[Any]]:
    """Return the center, width and height of each image's largest face, as fractions of it; zeros
    where there is none."""
    from raytrain.data.masks import face

    finder = face.Finder(face.Options(**data.augment.face_options))

    def largest(image: Any) -> list[float]:
        boxes = finder.find(image)
        if not boxes:
            return [0.0] * 4
        box = max(boxes, key=lambda box: (box.width * box.height, box))
        x, y = box.left + box.width / 2, box.top + box.height / 2
        return [
            x / image.width, y / image.height, box.width / image.width, box.height / image.height
        ]  # fmt: skip

    return lambda lines, entries: [{"numbers": largest(entry.image)} for entry in entries]


def _maker(kind: str, name: str, config: Any, largest: int | None = None) -> tuple[bytes, str]:
    """Return a plug-in's version as a hash, and who it is as JSON."""
    module = plugins.load(f"data.{kind}", name)
    version: str = module.version(config)
    facts = {"kind": kind, "name": name, "path": getattr(config, "path", ""), "version": version}
    if kind == "captioners":
        facts["prompt"] = config.prompt if config.prompt is not None else module.PROMPT
    shown = "" if kind == "rewriters" else f"/{DECODING}"
    shown += f"/{largest}" if shown and largest is not None else ""
    return hashlib.sha256(f"{kind}/{name}/{version}{shown}".encode()).digest(), json.dumps(
        facts, sort_keys=True
    )


def _need(stage: Stage) -> str:
    return _NEED.format(made_from=stage.made_from, condition=stage.condition)


def _verdict(stage: Stage, data: DataConfig) -> tuple[str, str, str]:
    """Return SQL over a joined line: whether it is rejected, the reason and the rule."""
    if stage.kind != "score":
        return "reason IS NOT NULL", "reason", "'broken'"
    score = data.quality.scores[stage.number]
    if not score.name.isidentifier():
        raise UserError(
            f"[[data.quality.scores]] needs a name of letters, digits and _, got {score.name!r}."
        )
    low = "-infinity" if score.min is None else repr(score.min)
    high = "infinity" if score.max is None else repr(score.max)
    outside = (
        "value IS NULL OR isnan(value)"
        if score.min is not None or score.max is not None
        else "false"
    )
    bad = f"reason IS NOT NULL OR {outside} OR value < '{low}'::DOUBLE OR value > '{high}'::DOUBLE"
    said = f"format('{score.name} is {{:.4g}}, outside of min = {low} to max = {high}', value)"
    return (
        bad,
        f"coalesce(reason, {said})",
        f"CASE WHEN reason IS NULL THEN '{score.name}' ELSE 'broken' END",
    )


def _changes(stage: Stage, data: DataConfig) -> str:
    if stage.kind == "score":
        score = data.quality.scores[stage.number]
        quality = ", value AS quality" if score.name == data.captions.quality_score else ""
        return f"list_append(scores, value) AS scores{quality}"
    if stage.kind in ("center", "face"):
        return f"numbers AS {stage.kind}"
    return "CASE WHEN j.number IS NULL THEN captions ELSE texts END AS captions"
