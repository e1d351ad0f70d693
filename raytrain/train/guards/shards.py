"""What DeepSpeed's shards do not go with, told before an engine is built."""

from __future__ import annotations

from collections.abc import Mapping

from raytrain import families
from raytrain.errors import UserError
from raytrain.model import Model
from raytrain.optimizers import Group


def check(name: str, model: Model) -> None:
    """Raise UserError for what DeepSpeed's shards do not go with."""
    groups = model.method.groups(model.config)
    if groups and len({_group_of(each, groups) for each in model.learning()}) > 1:
        raise UserError(
            f"train.engine = {name!r} keeps one learning rate and weight decay for all weights, "
            f"but the method trains {', '.join(groups)} with their own; a checkpoint could not be "
            'written. Use engine = "ddp" or "plain", or leave the '
            "method's own rate out."
        )
    text = [
        part for part in families.text_parts(model.objective.family, "text") if part in model.parts
    ]
    if name == "zero3" and text:
        raise UserError(
            f'train.engine = "zero3" cuts {", ".join(text)} into shards, whose sizes transformers '
            'then misreads; the method could not run them in its step. Use engine = "zero2" or '
            '"ddp".'
        )


def _group_of(name: str, groups: Mapping[str, Group]) -> str:
    return max((prefix for prefix in groups if name.startswith(prefix)), key=len, default="")
