"""The import rules of the architecture, held by reading every module's syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "raytrain", "tuning", "jobs")
ALLOWED = {
    "cluster": {"cluster"},
    "raytrain": {"raytrain"},
    "tuning": {"tuning", "raytrain"},
    "jobs": {"jobs", "tuning", "raytrain", "cluster"},
}
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "deepspeed",
    "accelerate",
    "bitsandbytes",
    "pytorch_optimizer",
)


@cache
def modules() -> dict[str, Path]:
    """Dotted name of every module of ours -> its file."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def imports(name: str, *, lazy: bool = True) -> frozenset[str]:
    """Modules that module `name` imports, in functions too when `lazy`;
    never those for the type checker alone."""
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in _walk(tree, lazy):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import; write the whole name"
            assert node.module is not None
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [part for part in parts if part in modules()]
            found.update(submodules)
            if len(submodules) < len(parts):
                found.add(node.module)
    return frozenset(found)


def _walk(node: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _walk(other, lazy)
            continue
        if not lazy and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _walk(child, lazy)


def test_every_module_is_seen() -> None:
    assert {name.split(".")[0] for name in modules()} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_the_architecture_allows(package: str) -> None:
    for name in modules():
        if name.split(".")[0] == package:
            ours = {target for target in imports(name) if target.split(".")[0] in PACKAGES}
            forbidden = {target for target in ours if target.split(".")[0] not in ALLOWED[package]}
            assert not forbidden, f"{name} may not import {sorted(forbidden)}"


def test_cluster_needs_ray_and_yaml_alone() -> None:
    allowed = {"cluster", "ray", "yaml", *sys.stdlib_module_names}
    for name in modules():
        if name.split(".")[0] == "cluster":
            foreign = {target for target in imports(name) if target.split(".")[0] not in allowed}
            assert not foreign, f"{name} may not import {sorted(foreign)}"


def test_jobs_share_rendering_and_never_import_each_other() -> None:
    for name in modules():
        if name.startswith("jobs."):
            others = {
                target
                for target in imports(name)
                if target.startswith("jobs.") and not target.startswith("jobs.render.")
            }
            assert not others, f"{name} may not import {sorted(others)}"


DATA = (
    "columns",
    "sources",
    "formats",
    "captioners",
    "rewriters",
    "buckets",
    "masks",
    "controls",
    "scores",
    "outpainters",
)
KINDS = (
    "families",
    "methods",
    "optimizers",
    "evaluate.scorers",
    "export.formats",
    "importers",
    *(f"data.{kind}" for kind in DATA),
)


@pytest.mark.parametrize("kind", KINDS)
def test_plugins_never_import_each_other(kind: str) -> None:
    parent = f"raytrain.{kind}."
    for name in modules():
        if name.startswith(parent):
            others = {
                t
                for t in imports(name)
                if t.startswith(parent) and not t.removeprefix(parent).startswith("_")
            }
            assert not others, f"{name} may not import {sorted(others)}"


def test_families_and_methods_do_not_know_each_other() -> None:
    pairs = [("raytrain.families", "raytrain.methods"), ("raytrain.methods", "raytrain.families")]
    for one, other in pairs:
        for name in modules():
            if name.startswith(one):
                known = {target for target in imports(name) if target.startswith(f"{other}.")}
                assert not known, f"{name} may not import {sorted(known)}"


FLOORS = (
    ("errors", "startup", "batch", "show", "text", "paths"),
    ("table", "plugins", "storage", "mirror", "upload", "rng", "local", "lock", "peak"),
    ("optimizers",),  # what the config asks of a plug-in by name; its files import the config
    ("config",),
    ("importers",),
    ("translate",),
    ("telemetry",),
    ("log", "provenance", "effective", "quantize", "diffusion", "artifacts", "aesthetic", "clip"),
    ("pretrained",),
    ("families",),
    ("objective",),
    ("methods",),
    ("starter",),
    ("model",),
    ("data", "checkpoint"),
    ("sampling", "held_out"),
    ("sample", "export"),
    ("evaluate",),
    ("train",),
    ("planned",),
    ("plan", "rehearsal"),
    ("toy",),
)
"""Rooms of raytrain, lowest first: none imports a higher one, in functions neither."""
PLUGS_IN = {("raytrain.optimizers", "raytrain.config")}
"""Arrows upward that are meant: a plug-in reads the settings that are handed to it."""


def room(name: str) -> str:
    """Return the room of a module: `raytrain.data` of `raytrain.data.store.shard`."""
    return ".".join(name.split(".")[:2])


def test_every_room_has_a_floor() -> None:
    listed = {f"raytrain.{each}" for rooms in FLOORS for each in rooms}
    assert {room(name) for name in modules() if name.startswith("raytrain.")} == listed


def test_a_lower_room_never_imports_a_higher_one() -> None:
    floor = {f"raytrain.{each}": number for number, rooms in enumerate(FLOORS) for each in rooms}
    for name in modules():
        own = floor.get(room(name))
        for target in imports(name) if own is not None else ():
            other = floor.get(room(target))
            upward = other is not None and own is not None and other > own
            assert not upward or (room(name), room(target)) in PLUGS_IN, (
                f"{name} may not import {target}, a higher room"
            )


PRINTS = {
    "raytrain.train.guards.hang",  # the stacks of a stuck worker, to its log
    "raytrain.toy.pretrain",  # a command of its own
}


def test_the_library_prints_nothing() -> None:
    for name, file in modules().items():
        if not name.startswith("raytrain.") or name in PRINTS:
            continue
        assert "rich" not in {each.split(".")[0] for each in imports(name)}, name
        called = {
            node.func.id
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "print" not in called, f"{name} prints; show it through raytrain.show"


def test_there_is_no_import_cycle() -> None:
    graph = {
        name: {t for t in imports(name, lazy=False) if t in modules() and t != name}
        for name in modules()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import cycle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def light_modules() -> list[str]:
    """Modules that must start in a blink: config, plug-ins, the cluster,
    the search space and the heads of jobs."""
    light = {"raytrain.config", "raytrain.config.file", "raytrain.plugins", "tuning.space"}
    return sorted(
        name for name in modules() if name in light or name.split(".")[0] in ("cluster", "jobs")
    )


def test_light_modules_load_nothing_heavy() -> None:
    script = f"""
import importlib, sys
for name in {light_modules()!r}:
    importlib.import_module(name)
    heavy = [library for library in {HEAVY!r} if library in sys.modules]
    assert not heavy, f"{{name}} loads {{heavy}}"
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
