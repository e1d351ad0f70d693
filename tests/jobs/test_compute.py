"""A stage computes on a worker of the Ray that is joined; the command only asks, follows and
tells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raytrain.config import Config
from raytrain.data.pipeline.executor import on_ray
from raytrain.errors import UserError
from tests.soak._nodes import ROOT

LIGHT = """
import sys
import cluster.connect, jobs.evaluate, jobs.export, jobs.sample, jobs.render.evaluation
import jobs.tune, tuning.database, tuning.leaderboard, tuning.sweep
import raytrain.config.file, raytrain.config.unread, raytrain.data.pipeline.on_ray
print(sorted({"torch", "diffusers", "transformers"} & sys.modules.keys()))
"""


@pytest.mark.usefixtures("ray")
def test_a_function_of_a_name_computes_in_a_task(run_config: Callable[..., Config]) -> None:
    config = run_config(sample={"steps": 1, "max_prompts": 1, "prompts": ["a", "b"]})
    said: list[str] = []

    def draw(which: str) -> str:
        wanted = {"config": config, "which": which, "output": None}
        path: str = on_ray().compute("raytrain.sample:sample", 1, 0, said.append, **wanted)
        return path

    assert Path(draw("base")).name == "grid.png"
    assert Path(config.output, "images", "000.png").exists()
    assert [text.split(":")[0] for text in said] == [
        "Of 2 prompts the first 1 are drawn (sample.max_prompts = 1); raise it to draw the others "
        "too."
    ]
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        draw("latest")


def test_a_command_on_ray_imports_no_model_library() -> None:
    run = [sys.executable, "-c", LIGHT]
    assert subprocess.run(run, cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
