"""The benchmark itself works and writes what it promises; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = ("loader", "dataset_read", "prepare")
"""The others start Ray or train, which other tests do at length."""


@pytest.mark.slow
def test_benchmark_writes_its_figures(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    command = [
        sys.executable,
        "-m",
        "tests.bench",
        "--quick",
        "--repeats",
        "1",
        "--output",
        str(output),
        *NAMES,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    figures = json.loads(output.read_text())
    assert [figure["name"] for figure in figures] == list(NAMES)
    for figure in figures:
        assert set(figure) == {"name", "ours", "reference", "ratio", "unit"}
        assert figure["ours"] > 0
        assert figure["reference"] > 0
