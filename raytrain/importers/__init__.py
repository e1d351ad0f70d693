"""Importers: another trainer's configuration becomes a config of ours, one trainer a file.

An importer is a module with

    RULES        key -> Rule (`_rules.py`): what becomes of it. `[]` in a key stands for any index,
                 a last `*` for whatever follows; the longest that fits counts
    ASSUMED      our key -> (value, why): what that trainer does without being asked
    recognizes   list of Documents -> whether they are its configuration
    read         list of Documents -> flat keys and values, all that the configuration sets
    defaults     those -> their defaults that matter, by the same keys

Each key of a configuration ends up in exactly one `Entry`. Of the defaults only those show up that
differ from ours or have no equal. Facts are of each trainer's public source, named in its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from raytrain import plugins
from raytrain.config.file import parse
from raytrain.errors import UserError, nearest, unknown
from raytrain.importers import _ours
from raytrain.importers._read import Document as Document
from raytrain.importers._rules import Asked, Rule, Said

Kind = Literal["translated", "without an equal", "different by default", "unknown"]
KINDS: tuple[Kind, ...] = ("translated", "without an equal", "different by default", "unknown")


COMMAND = "the command line"


class Importer(Protocol):
    """What a file in `raytrain/importers` offers."""

    RULES: Mapping[str, Rule]
    ASSUMED: Mapping[str, tuple[Any, str]]

    def recognizes(self, documents: Sequence[Document]) -> bool:
        """Tell whether these are files of that trainer."""

    def read(self, documents: Sequence[Document]) -> dict[str, Any]:
        """Return each key that the files set."""

    def defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trainer's defaults that matter; some depend on what is set."""


@dataclass(frozen=True)
class Entry:
    """What became of one key."""

    key: str
    value: Any
    kind: Kind
    settings: Mapping[str, Any]
    """What is written for it, by our keys."""
    words: str
    given: bool
    """Whether the configuration sets it; else it is a default of theirs."""


@dataclass
class Translation:
    """A config of ours, and the report."""

    trainer: str
    tree: dict[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    fault: str = ""
    """Why the tree is no whole config yet; empty where it is one."""
    sources: dict[str, str] = field(default_factory=dict)
    """Our key -> theirs that set it."""


def translate(
    documents: Sequence[Document], trainer: str = "", settings: Mapping[str, Any] | None = None
) -> Translation:
    """Translate the files of a trainer, by default the one that recognizes them.

    `settings` are our keys that count whatever the files say. UserError where no trainer, or more
    than one, recognizes the files.
    """
    made = Translation(trainer or _recognized(documents))
    if made.trainer not in plugins.names("importers"):
        raise unknown("trainer", made.trainer, plugins.names("importers"))
    importer = cast(Importer, plugins.load("importers", made.trainer))
    for key, value in (settings or {}).items():
        _ours.put(made.tree, key, value)
        made.sources[key] = COMMAND
    given = importer.read(documents)
    defaults = importer.defaults(given)
    # what chooses method and optimizer goes first: which keys and defaults we have depends on it
    for keys, is_given in ((list(given), True), ([k for k in defaults if k not in given], False)):
        entries = {}
        for key in sorted(keys, key=lambda key: not _chooses(_said(importer, Asked(key, given, defaults)))):
            entries[key] = _entry(made, importer, Asked(key, given, defaults), is_given)
        made.entries += [entries[k] for k in keys if is_given or entries[k].kind != "translated"]
    made.entries += _assumed(made, importer.ASSUMED)
    made.tree.setdefault("method", {}).setdefault("name", "lora")
    made.fault = _fault(made.tree)
    return made


def _recognized(documents: Sequence[Document]) -> str:
    names = plugins.names("importers")
    found = [n for n in names if plugins.load("importers", n).recognizes(documents)]
    if len(found) != 1:
        files = ", ".join(repr(each.path) for each in documents)
        raise UserError(
            f"{files} must be the configuration of one trainer, but "
            f"{' and '.join(found) if found else 'none of ' + ', '.join(names)} recognized it. "
            "Nothing was imported. Say whose it is with --from, and give all its files."
        )
    return found[0]


def rule_of(key: str, rules: Mapping[str, Rule]) -> Rule | None:
    """Return the rule of a key: of the pattern that says most."""
    plain = re.sub(r"\[\d+\]", "[]", key)
    if plain in rules:
        return rules[plain]
    fits = [each for each in rules if each.endswith("*") and plain.startswith(each[:-1])]
    return rules[max(fits, key=len)] if fits else None


def _said(importer: Importer, asked: Asked) -> Said | None:
    rule = rule_of(asked.key, importer.RULES)
    if rule is None:
        return None
    try:
        return rule(asked.of(asked.key), asked)
    except ValueError as error:
        return Said(missing=str(error))


def _chooses(said: Said | None) -> bool:
    return said is not None and bool({"method.name", "train.optimizer"} & set(said.settings))


def _entry(made: Translation, importer: Importer, asked: Asked, given: bool) -> Entry:
    key, value, said = asked.key, asked.of(asked.key), _said(importer, asked)
    if said is None:
        near = nearest(key, importer.RULES)
        hint = f"; a misspelt {near!r}?" if near else ""
        return Entry(key, value, "unknown", {}, f"not known here{hint}", given)
    written: dict[str, Any] = {}
    clashes = [said.missing] if said.missing else []
    for ours, setting in said.settings.items():
        try:
            usual = _ours.default(ours, made.tree)
        except KeyError:
            if given:
                name = made.tree.get("method", {}).get("name", "lora")
                clashes.append(f"{ours} is no key of method.name = {name!r}")
            continue
        holder = made.sources.get(ours)
        if holder is None and (given or setting != usual):
            _ours.put(made.tree, ours, setting)
            made.sources[ours] = key
        elif given and holder not in (None, COMMAND) and _ours.get(made.tree, ours) != setting:
            clashes.append(f"{ours} is what {holder} says")
        if given or made.sources.get(ours) == key:
            written[ours] = _ours.get(made.tree, ours)
    kind: Kind = "translated" if given or not written else "different by default"
    return Entry(
        key,
        value,
        "without an equal" if clashes else kind,
        written,
        "; ".join(clashes) or said.note,
        given,
    )


def _assumed(made: Translation, assumed: Mapping[str, tuple[Any, str]]) -> Iterator[Entry]:
    for ours, (setting, why) in assumed.items():
        if ours not in made.sources and setting != _ours.default(ours, made.tree):
            _ours.put(made.tree, ours, setting)
            made.sources[ours] = made.trainer
            yield Entry("(always)", "", "different by default", {ours: setting}, why, False)


def _fault(tree: Mapping[str, Any]) -> str:
    try:
        parse(tree)
    except UserError as error:
        return str(error)
    return ""
