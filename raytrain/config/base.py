"""Base of every settings table and of every small record that is stored as JSON, and the types they share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Names = Annotated[tuple[str, ...], Field(strict=False)]
Size = Annotated[tuple[int, int], Field(strict=False)]
Interval = Annotated[tuple[float, float], Field(strict=False)]


class Table(BaseModel):
    """Frozen, strict types, unknown keys refused, free text allowed to start with `model_`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
