"""Translate another trainer's configuration: each of its keys becomes settings of ours, or is said
to have none.

    made = translate(read_files([Path("train.sh"), Path("dataset.toml")]))
    write(made, "train.sh, dataset.toml", Path("my.toml"))
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import tomli_w

from raytrain import importers, plugins
from raytrain.config import Config, keys
from raytrain.config.file import parse
from raytrain.errors import UserError, nearest, unknown
from raytrain.importers import Asked, Document, Importer, Rule, Said
from raytrain.text import decode

Kind = Literal["translated", "without an equal", "different by default", "unknown"]
KINDS: tuple[Kind, ...] = ("translated", "without an equal", "different by default", "unknown")
COMMAND = "the command line"
CHOOSE = ("model.family", "method.name")
"""Keys that are written where they equal our default too."""


LOUD = ("without an equal", "unknown")
"""What the file itself says at its top."""


SECRET = re.compile(r"(hub_token|huggingface_token|wandb_api_key|aws_\w*access_key\w*)$")
"""Keys whose values no report repeats."""


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
    made = Translation(trainer or _trainer_of(documents))
    if made.trainer not in plugins.names("importers"):
        raise unknown("trainer", made.trainer, plugins.names("importers"))
    importer = importers.load(made.trainer)
    for key, value in (settings or {}).items():
        keys.put(made.tree, key, value)
        made.sources[key] = COMMAND
    given = importer.read(documents)
    defaults = importer.defaults(given)
    # what chooses method and optimizer goes first: which keys and defaults we have depends on it
    for names, is_given in ((list(given), True), ([k for k in defaults if k not in given], False)):
        entries = {}
        for key in sorted(
            names, key=lambda key: not _chooses(_said(importer, Asked(key, given, defaults)))
        ):
            entries[key] = _entry(made, importer, Asked(key, given, defaults), is_given)
        made.entries += [entries[k] for k in names if is_given or entries[k].kind != "translated"]
    made.entries += _assumed(made, importer.ASSUMED)
    if "model.family" not in made.sources:
        raise UserError(
            "The files do not say which family of models they train, so nothing was imported. "
            f"Say it with --family: {', '.join(plugins.names('families'))}."
        )
    made.tree.setdefault("method", {}).setdefault("name", "lora")
    made.fault = _fault(made.tree)
    return made


def recognized(documents: Sequence[Document]) -> list[str]:
    """Return the trainers whose configuration these files may be."""
    return [n for n in plugins.names("importers") if importers.load(n).recognizes(documents)]


def _trainer_of(documents: Sequence[Document]) -> str:
    names, found = plugins.names("importers"), recognized(documents)
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
    except (ValueError, UserError) as error:
        return Said(missing=str(error))


def _chooses(said: Said | None) -> bool:
    return said is not None and bool({"method.name", "train.optimizer"} & set(said.settings))


def _entry(made: Translation, importer: Importer, asked: Asked, given: bool) -> Entry:
    key, value, said = asked.key, asked.of(asked.key), _said(importer, asked)
    value = "(hidden)" if value and SECRET.search(key) else value
    if said is None:
        near = nearest(key, importer.RULES)
        alike = near and SequenceMatcher(None, key, near).ratio() > 0.8
        hint = f"; a misspelt {near!r}?" if alike else ""
        return Entry(key, value, "unknown", {}, f"not known here{hint}", given)
    written: dict[str, Any] = {}
    clashes = [said.missing] if said.missing else []
    for ours, setting in said.settings.items():
        try:
            usual = keys.default(ours, made.tree)
        except KeyError:
            if given:
                name = made.tree.get("method", {}).get("name", "lora")
                clashes.append(f"{ours} is no key of method.name = {name!r}")
            continue
        holder = made.sources.get(ours)
        if holder is None and (given or setting != usual or ours in CHOOSE):
            keys.put(made.tree, ours, setting)
            made.sources[ours] = key
        elif given and holder not in (None, COMMAND) and keys.get(made.tree, ours) != setting:
            clashes.append(f"{ours} is what {holder} says")
        if given or made.sources.get(ours) == key:
            written[ours] = keys.get(made.tree, ours)
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
        if ours not in made.sources and setting != keys.default(ours, made.tree):
            keys.put(made.tree, ours, setting)
            made.sources[ours] = made.trainer
            yield Entry("", "", "different by default", {ours: setting}, why, False)


def _fault(tree: Mapping[str, Any]) -> str:
    try:
        parse(tree)
    except UserError as error:
        return str(error)
    return ""


def read_files(paths: Sequence[Path]) -> list[Document]:
    """Read the files of a configuration; UserError where one cannot be read."""
    found = []
    for path in paths:
        try:
            found.append(Document(str(path), decode(path.read_bytes())))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{str(path)!r} must be a text file that can be read: {error}. Nothing was "
                "imported; give the files of the configuration."
            ) from error
    return found


def write(made: Translation, files: str, path: Path) -> None:
    """Write a translation as a config file; UserError where there is a file already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(to_text(made, files))
    except OSError as error:
        raise UserError(
            f"The config {str(path)!r} cannot be written: {error.strerror or error}. Nothing was "
            "imported; give another path with --output."
        ) from error


def to_text(made: Translation, files: str) -> str:
    """Return the config, and above it in comments what of the source is not in it."""
    left = [entry for entry in made.entries if entry.kind in LOUD]
    lines = [f"From {made.trainer}: {files}, by `raytrain import`."]
    lines += ["Not in here, or not as it was:"] if left else []
    lines += [f"  {told(entry)}" for entry in left]
    lines += [f"To be filled in: {made.fault}"] if made.fault else []
    head = "".join(f"# {line}\n" for text in lines for line in text.splitlines())
    tree = {name: made.tree[name] for name in Config.model_fields if name in made.tree}
    return f"{head}\n{tomli_w.dumps(_plain(tree))}"


def told(entry: Entry) -> str:
    """Return what became of a key, as one line."""
    kind = "unknown: " if entry.kind == "unknown" else ""
    return " ".join(f"{entry.key} = {short(entry.value)}: {kind}{entry.words}".split())


def short(value: Any, most: int = 40) -> str:
    """Return a value as text of so many characters at most."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _plain(tree: Any) -> Any:
    """Return the tree without empty items, which a list has where an importer left a gap."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree if value != {}]
    return tree
