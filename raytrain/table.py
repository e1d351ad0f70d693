"""Base of every settings table and of every small record that is stored as JSON,
and the types they share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from raytrain.errors import UserError, nearest

Names = Annotated[tuple[str, ...], Field(strict=False)]
Size = Annotated[tuple[int, int], Field(strict=False)]
Interval = Annotated[tuple[float, float], Field(strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Of random generators, which take 63 bits."""


class Table(BaseModel):
    """Frozen, strict types, finite numbers, unknown keys refused, free text allowed to start with
    `model_`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


def check_color(background: str) -> None:
    """Raise UserError unless a background is the name of a color (those of CSS) or #rrggbb."""
    from PIL import ImageColor

    name = background.lower()
    if name in ImageColor.colormap or (
        len(name) == 7 and name[0] == "#" and not set(name[1:]) - set("0123456789abcdef")
    ):
        return
    guess = nearest(name, ImageColor.colormap)
    hint = f" Did you mean {guess!r}?" if guess else ""
    raise UserError(
        "data.background must be a color, by its name or as #rrggbb, got "
        f"{background!r};{hint or ' for instance'} background = "
        '"white" or "#7f7f7f".'
    )
