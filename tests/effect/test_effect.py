"""No key of the config is silently ignored: changed from its default, it changes what is stored,
drawn, learned, measured, written, said or asked of others, or it is refused.

A new key is walked over by itself; one that needs another value, or others beside it, stands in
`cases.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raytrain.config import Config
from raytrain.config.unread import unread
from raytrain.errors import UserError
from tests.data.chat_server import serving
from tests.effect import handed, keys, see
from tests.effect.cases import CASES, ELSEWHERE, Case
from tests.effect.see import STORED, look
from tests.effect.world import UNSET, World, build

KEYS = keys.keys()
SEEN: dict[str, see.Look] = {
    "": see.draws, "model": see.draws, "method": see.model, "objective": see.draws,
    "train": see.steps, "sample": see.images, "evaluate": see.scores, "export": see.exported,
    "data.masks": see.dataset, "data.controls": see.dataset, "cluster": handed.connection,
    "log": see.steps,
}  # fmt: skip
"""Where the keys of a table are seen, unless `cases.py` says otherwise; those of [data] by the
rows that are planned."""
STEADY = ("draws", "model", "steps", "images", "scores", "exported", "dataset",
          "rows")  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def answer(question: dict[str, Any]) -> str:
        asked = {k: v for k, v in question.items() if k != "messages"}
        texts = [str(each["content"]) for each in question["messages"]]
        return "said " + hashlib.sha256(json.dumps([asked, texts]).encode()).hexdigest()[:8]

    with serving(answer) as server:
        yield build(tmp_path_factory.mktemp("effect"), server.url)


@pytest.mark.parametrize("name", STEADY)
def test_the_same_config_does_the_same(name: str, world: World) -> None:
    """Else every key would seem to have an effect."""
    config = world.config({} if name in ("dataset", "rows") else STORED)
    if name == "exported":
        config = world.config(STORED, {"output": "{root}/trained"})
    one = getattr(see, name)(world, config)
    assert getattr(see, name)(world, config) == one
    assert not isinstance(one, str), "a mistake would be the same too"


def sees_of(key: str) -> see.Look:
    """Return where the effect of a key is seen."""
    case = CASES.get(key, Case())
    return case.see or SEEN.get(keys.table_of(key), see.rows)


COSTLY = (see.steps, see.dataset, see.images, see.layout, see.exported, handed.searched)
HERE = sorted(
    (key for key in KEYS if key not in ELSEWHERE), key=lambda key: sees_of(key) in COSTLY
)
MARKED = [
    pytest.param(key, marks=pytest.mark.slow) if sees_of(key) in COSTLY and number % 2 else key
    for number, key in enumerate(HERE)
]


@pytest.mark.parametrize("key", MARKED)
def test_a_key_has_an_effect_or_is_refused(key: str, world: World) -> None:
    case, path = CASES.get(key, Case()), path_of(key)
    base, sees = base_of(key), sees_of(key)
    config = world.config(*base, case.given)
    value = changed(key, case, config)
    try:
        other = world.config(*base, case.given, {path: value})
    except UserError as error:
        pytest.fail(f"key {key} = {value!r} was refused: {error}")
    before, after = look(world, sees, config), look(world, sees, other)
    refused = isinstance(after, str) and after.startswith("error")
    assert not isinstance(before, str), f"key {key}: what it is compared with fails: {before}"
    assert bool(refused) == bool(case.refused), f"key {key} = {value!r}: {after}"
    assert before != after, f"key {key} = {value!r}: no effect seen"
    assert case.refused in str(after)


@pytest.mark.parametrize("key", [key for key, case in CASES.items() if case.needs])
def test_a_key_without_what_it_needs_is_refused_or_told(key: str, world: World) -> None:
    base = base_of(key)
    config = world.config(*base, CASES[key].given)
    try:
        alone = world.config(*base, {path_of(key): changed(key, CASES[key], config)})
    except UserError:
        return
    if not any(line.startswith(f"{path_of(key)} = ") for line in unread(alone)):
        told = [f"the {path_of(key).rpartition('.')[2]} '" in line for line in alone.data.unread()]
        seen = "" if any(told) else look(world, sees_of(key), alone)
        assert any(told) or str(seen).startswith("error"), f"key {key} is ignored in silence"


def test_what_is_seen_elsewhere_is_tested_there() -> None:
    root = Path(__file__).parents[2]
    for key, (why, file) in ELSEWHERE.items():
        assert key in KEYS, f"there is no key {key} any more"
        assert why
        name = key.rpartition(".")[2]
        assert name in (root / file).read_text(), f"{file} does not name {key}"


def test_every_case_is_of_a_key() -> None:
    assert not CASES.keys() - KEYS.keys()
    assert not CASES.keys() & ELSEWHERE.keys()


def path_of(key: str) -> str:
    """Return where a key stands in a config file."""
    if key.startswith("method["):
        return f"method.{key.partition('].')[2]}"
    return key.partition(".*")[0]


def base_of(key: str) -> list[dict[str, Any]]:
    """Return what both configs of a key's test have in addition to the base."""
    prepares = sees_of(key) in (see.dataset, see.rows, see.layout)
    found: list[dict[str, Any]] = [] if prepares or key == "data.dataset" else [dict(STORED)]
    if keys.table_of(key) in ("train", "objective", "log"):  # few layers are quicker
        found.append({"method.name": "lora", "method.targets": ["attn2.to_q"]})
    if key.startswith("method["):
        name = key.removeprefix("method[").partition("]")[0]
        found.append({"method.name": name})
    return found


def changed(key: str, case: Case, config: Config) -> Any:
    """Return what a key is changed to."""
    if case.value is not UNSET:
        return case.value
    value: Any = config.values()
    for name in path_of(key).split("."):
        value = value[int(name)] if isinstance(value, list) else value[name]
    try:
        return keys.another(KEYS[key], value)
    except LookupError:
        pytest.fail(f"key {key}: its schema gives no other value; name one in cases.py")
