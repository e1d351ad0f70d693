"""Importers: another trainer's configuration becomes a config of ours, one trainer a file.

An importer has the members of `Importer` below. `raytrain/translate.py` asks it, and puts each key
of a configuration into exactly one `Entry` of the report. Facts are of each trainer's public
source, which its file names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from raytrain import plugins
from raytrain.importers._read import Document as Document
from raytrain.importers._rules import Asked as Asked
from raytrain.importers._rules import Rule as Rule
from raytrain.importers._rules import Said as Said


class Importer(Protocol):
    """What a file in `raytrain/importers` offers."""

    RULES: Mapping[str, Rule]
    """Key -> what becomes of it. `[]` stands for any index, a last `*` for whatever follows; the
    longest that fits counts."""
    ASSUMED: Mapping[str, tuple[Any, str]]
    """Our key -> value and reason: what that trainer does without being asked."""

    def recognizes(self, documents: Sequence[Document]) -> bool:
        """Tell whether these are files of that trainer."""

    def read(self, documents: Sequence[Document]) -> dict[str, Any]:
        """Return each key that the files set, flat."""

    def defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trainer's defaults that matter, by the same keys; some depend on what is set.

        The report names those that differ from ours or have no equal.
        """


def load(trainer: str) -> Importer:
    """Return the importer of a trainer."""
    return cast(Importer, plugins.load("importers", trainer))
