"""Four short runs learn what they always learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.train import golden


@pytest.mark.parametrize(("family", "method"), golden.CASES)
def test_losses_are_the_golden_ones(family: str, method: str, tmp_path: Path) -> None:
    kept = json.loads(golden.FILE.read_text())[f"{family} {method}"]
    assert golden.losses(family, method, tmp_path) == pytest.approx(kept, rel=1e-4)
