"""What Stable Diffusion 3 alone promises: what it refuses, and the ControlNet it begins with."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3ControlNetModel

from raytrain.config import Config
from raytrain.data.store.fingerprint import Fingerprint
from raytrain.errors import UserError
from raytrain.families import sd3
from raytrain.objective import Objective
from tests.families.conftest import Tiny
from tests.families.test_contract import check_control


def test_dynamic_shifting_is_refused(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    model = tiny("sd3").model
    shutil.copytree(Path(model.path, "scheduler"), tmp_path / "scheduler")
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dynamic_shifting": True}))
    with pytest.raises(UserError, match="use_dynamic_shifting"):
        sd3.process(model.model_copy(update={"path": str(tmp_path)}))
    assert sd3.process(model).shift == 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"max_tokens": 150}}, "model.max_tokens = 150"),
        (
            {"data": {"buckets": {"resolution": 64, "step": 16, "sizes": [[208, 64]]}}},
            "192 pixels a side",
        ),
        (
            {"data": {"buckets": {"resolution": 64, "step": 8, "sizes": [[72, 64]]}}},
            "multiple of 16",
        ),
    ],
)
def test_what_it_cannot_read_is_refused_before_anything_is_encoded(
    tiny: Callable[[str], Tiny], change: dict[str, Any], message: str
) -> None:
    model = {"family": "sd3", "path": tiny("sd3").model.path, **change.get("model", {})}
    data = {"source": "images", "dataset": "dataset", **change.get("data", {})}
    config = Config.model_validate({"output": "run", "model": model, "data": data})
    with pytest.raises(UserError, match=message):
        Fingerprint.of(config)


def test_training_refuses_a_caption_length_too(tiny: Callable[[str], Tiny]) -> None:
    model = {"family": "sd3", "path": tiny("sd3").model.path, "max_tokens": 225}
    config = Config.model_validate({"output": "run", "model": model, "data": {"source": "images"}})
    with pytest.raises(UserError, match=r"model\.max_tokens = 225"):
        Objective.of(config, torch.device("cpu"))


def test_a_control_branch_begins_as_diffusers_own(tiny: Callable[[str], Tiny]) -> None:
    made = tiny("sd3")
    expected = SD3ControlNetModel.from_transformer(
        copy.deepcopy(made.denoiser), num_layers=3, num_extra_conditioning_channels=0
    ).state_dict()
    found = sd3.control_branch(made.denoiser, made.parts.__getitem__).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_a_control_branch_without_pooled_text_is_run_as_the_pipeline_runs_it(
    tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny("sd3")
    branch: Any = sd3.control_branch(made.denoiser, made.parts.__getitem__).eval()
    branch.register_to_config(force_zeros_for_pooled_projection=True)
    check_control(made, branch, monkeypatch)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantized_base_has_a_control_branch_too(tiny: Callable[[str], Tiny], kind: str) -> None:
    made = tiny("sd3")
    base = sd3.load(made.model.model_copy(update={"quantize": kind}), "transformer", torch.float32)
    expected = sd3.control_branch(made.denoiser, made.parts.__getitem__).state_dict()
    found = sd3.control_branch(base, made.parts.__getitem__).state_dict()
    for name, weight in expected.items():
        assert (found[name] - weight).abs().max() <= 0.2 * weight.abs().max(), name
