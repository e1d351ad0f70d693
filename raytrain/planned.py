"""What a config would do, as `raytrain.plan` finds it; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from raytrain.config import Config
from raytrain.data.store.schema import BucketCount
from raytrain.train.sizes import Encoders, Step


@dataclass(frozen=True)
class Plan:
    """What would run."""

    config: Config
    dataset: str
    """In words: ready with its rows, or what prepare would read."""
    buckets: dict[str, BucketCount] = field(default_factory=dict)
    steps: int | None = None
    epochs: float | None = None
    engine: str = ""
    """Its name, and why it was taken."""
    memory: int = 0
    """Bytes of a worker's device, estimated."""
    encoders: Encoders = field(default_factory=Encoders)
    """What of these encodes in the step."""
    micro_batch: int = 0
    accumulation: int = 1
    parameters: int = 0
    trainable_parameters: int = 0
    row: Step = field(default_factory=lambda: Step(0, 0))
    """Of the largest bucket."""
    seconds: float | None = None
    resumes_from: int = 0
    note: str = ""
    """What to know of the dataset."""
    stored: dict[str, int] = field(default_factory=dict)
    """Bytes that preparing will write, by column, estimated; empty where it is done."""
