"""Filter the images: broken, too small, too elongated and duplicate ones are left out and listed.
SQL over all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from raytrain.config.data import CaptionConfig, QualityConfig
from raytrain.data.pipeline.similar import near_duplicates
from raytrain.data.store import tables

_RULED = """
    CREATE TEMP TABLE ruled AS
    WITH known AS (
      SELECT i.number, i.path, l.width, l.height, l.appearance,
        coalesce(l.reason, 'was not scanned') AS reason,
             first_value(i.path) OVER same AS first, row_number() OVER same AS place
      FROM items i LEFT JOIN scans l USING (key)
        WINDOW same AS (PARTITION BY l.id ORDER BY i.number)),
    judged AS (
      SELECT *, CASE
        WHEN reason <> '' THEN 'broken'
        WHEN least(width, height) < $min_side THEN 'size'
        WHEN width::BIGINT * height < $min_area THEN 'area'
        WHEN greatest(width, height) > $max_ratio * least(width, height) THEN 'ratio'
        WHEN place > 1 THEN 'duplicate' ELSE '' END AS rule
      FROM known)
    SELECT number, path, appearance, rule, CASE rule
      WHEN 'size' THEN format('{}x{}: a side is below data.quality.min_side = {}', width, height,
        $min_side)
      WHEN 'area' THEN format('{}x{} = {} pixels: below data.quality.min_area = {}', width, height,
        width::BIGINT * height, $min_area)
      WHEN 'ratio' THEN format('{}x{}: beyond data.quality.max_ratio = {}', width, height,
        $max_ratio)
      WHEN 'duplicate' THEN 'duplicate of ' || first ELSE reason END AS reason,
      width / height AS ratio
    FROM judged
"""
_TRIMMED = """
    UPDATE ruled SET rule = 'count',
      reason = 'beyond the first ' || $stay || ' images (data.captions.rewriter_trim)'
    WHERE rule = '' AND number NOT IN
      (SELECT number FROM ruled WHERE rule = '' ORDER BY number LIMIT $stay)
"""
_KEPT = """
    SELECT i.number, l.id, l.mask_id, l.control_id, i.path, i.location, i.mask, i.control,
      i.prefix, i.suffix, i.caption_settings, i.site,
           l.width, l.height, l.transparent, coalesce(l.ready, '') AS ready,
           CASE WHEN len(l.texts) > 0 THEN l.texts
             ELSE i.captions END AS captions,
           i.repeats, i.weight, i.regularization, i.held_out, i.subset, []::DOUBLE[] AS scores,
           NULL::DOUBLE AS quality, NULL::DOUBLE[] AS center, NULL::DOUBLE[] AS face
    FROM items i JOIN scans l USING (key) JOIN ruled s ON s.number = i.number
    WHERE s.rule = '' ORDER BY i.number
"""
_EMPTY = """
    SELECT i.subset, count(*), mode(s.rule) FROM items i JOIN ruled s USING (number)
    GROUP BY i.subset HAVING count(*) FILTER (WHERE s.rule = '') = 0 ORDER BY i.subset
"""
"""Subsets of which no image is kept, how many images they have, and the rule most are left out
by."""


def filter_images(
    items: str,
    scans: tuple[str, ...],
    quality: QualityConfig,
    captions: CaptionConfig,
    images: str,
    rejected: str,
) -> dict[str, Any]:
    """Write the images that are kept and the rejected ones; return the number of kept images,
    their mean width / height, and the subsets that keep none."""
    with tables.database(items=(items, tables.ITEMS), all_scans=(scans, tables.SCANS)) as sql:
        tables.once(sql, "scans", "all_scans")
        limits = {"min_side": quality.min_side, "min_area": quality.min_area}
        sql.execute(_RULED, {**limits, "max_ratio": quality.max_ratio or float("inf")})
        if quality.near_duplicates is not None:
            _near_duplicates(sql, quality.near_duplicates)
        [stay] = sql.execute("SELECT count(*) FROM ruled WHERE rule = ''").fetchall()[0]
        if captions.trims(stay):
            sql.execute(_TRIMMED, {"stay": captions.rewriter_trim})
        lost = sql.sql(
            "SELECT path, reason, rule, '' AS key FROM ruled WHERE rule <> '' ORDER BY number"
        )
        tables.write(rejected, lost.to_arrow_reader(tables.GROUP), tables.REJECTED)
        kept = sql.sql(_KEPT)
        count = tables.write(images, kept.to_arrow_reader(tables.GROUP), tables.IMAGES)
        ratio = sql.execute("SELECT avg(ratio) FROM ruled WHERE rule = ''").fetchall()[0][0]
        empty = sql.execute(_EMPTY).fetchall() if count else []
        return {"kept": count, "mean_ratio": ratio, "empty": empty}


def _near_duplicates(sql: Any, distance: int) -> None:
    """Reject what differs little from an earlier image that stays."""
    found = sql.execute(
        "SELECT number, appearance FROM ruled WHERE rule = '' ORDER BY number"
    ).fetchnumpy()
    numbers = np.asarray(found["number"])
    of = near_duplicates(np.asarray(found["appearance"], dtype=np.uint64), distance)
    double = np.flatnonzero(of >= 0)
    sql.register("near", pa.table({"number": numbers[double], "first": numbers[of[double]]}))
    sql.execute("""
        UPDATE ruled SET rule = 'near_duplicate', reason = 'looks like ' || f.path
        FROM near JOIN ruled f ON f.number = near.first WHERE near.number = ruled.number
    """)
