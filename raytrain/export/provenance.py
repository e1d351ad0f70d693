"""Where an exported file came from, as strings for a safetensors header.

`raytrain.*` is ours; `modelspec.*` are the keys of Stability's ModelSpec 1.0.1 that model browsers
show.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from raytrain import __version__, families, pretrained
from raytrain.artifacts import Artifact
from raytrain.config import Config


def header(
    name: str,
    config: Config,
    learned: Mapping[str, Any],
    artifacts: Sequence[Artifact],
    *,
    ema: bool,
) -> dict[str, str]:
    """Return the header of one run's export; `learned` holds the checkpoint's step,
    commit and dataset fingerprint."""
    side = config.data.buckets.resolution
    family = families.load(config.model.family)
    facts = {
        "raytrain.version": __version__,
        "raytrain.commit": learned.get("commit"),
        "raytrain.dataset": learned.get("dataset"),
        "raytrain.step": learned.get("step"),
        "raytrain.ema": ema,
        "raytrain.config": json.dumps(config.values(), sort_keys=True),
        "raytrain.model": config.model.path,
        "raytrain.model_hash": pretrained.hash_of(config.model, (families.denoiser(family),)),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": family.MODELSPEC + artifacts[0].MODELSPEC,
        "modelspec.implementation": "diffusers",
        "modelspec.title": name,
        "modelspec.date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.trigger_phrase": ", ".join(config.data.triggers()) or None,
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
