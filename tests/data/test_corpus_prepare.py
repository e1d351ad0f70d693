"""`python -m jobs.prepare` over the corpus: every good image arrives, every bad one is listed,
nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tomli_w

from raytrain.families import sd15
from tests.data import corpus

ROOT = Path(__file__).parents[2]


def test_prepare_sorts_the_good_from_the_bad(tmp_path: Path) -> None:
    built = corpus.build(tmp_path)
    sd15.tiny(str(tmp_path / "model"))
    config: dict[str, Any] = {
        "output": str(tmp_path / "run"),
        "model": {"family": "tests.data.nan_family", "path": str(tmp_path / "model")},
        "data": {
            "source": str(built.source),
            "format": "folder",
            "held_out": 0.1,
            "buckets": {"resolution": 32, "step": 16, "sizes": [[32, 32], [48, 32], [32, 48]]},
        },
        "cluster": {"num_cpus": 2, "object_store_mb": 200},
    }
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config))
    command = [sys.executable, "-m", "jobs.prepare", str(tmp_path / "config.toml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=500
    )
    printed = (ended.stdout + ended.stderr).decode(errors="replace")
    assert ended.returncode == 3, printed[-4000:]
    assert "Traceback" not in printed

    dataset = tmp_path / "run" / "dataset"
    manifest = json.loads((dataset / "manifest.json").read_text())
    left = pq.read_table(dataset / manifest["rejected_path"]).to_pylist()
    rejected = [row for row in left if row["rule"] != "unused"]
    rows = [
        row
        for part in manifest["parts"]
        for row in pq.read_table(dataset / part["path"]).to_pylist()
    ]
    arrived, reasons = (
        Counter(row["path"] for row in rows),
        Counter(row["path"] for row in rejected),
    )
    assert max((arrived + reasons).values()) == 1
    assert arrived.keys() == built.good.keys()
    assert reasons.keys() == built.bad.keys()
    assert len(rejected) == len(built.bad)
    assert [row["path"] for row in left if row not in rejected] == ["names/notes.md"]
    assert manifest["rejected"] == len(left)
    wrong = {
        row["path"]: row["reason"]
        for row in rejected
        if built.bad[row["path"]] not in row["reason"]
    }
    assert not wrong, "reasons without the words they must hold"
    assert {row["rule"] for row in rejected} == {"broken"}
    for row in rows:
        wanted = built.good[row["path"]]
        assert (row["original_width"], row["original_height"]) == wanted.size, row["path"]
        if not row["path"].endswith("captions/long.png"):
            assert [caption for caption in row["captions"] if caption] == (
                [wanted.caption] if wanted.caption else []
            )
