"""House rules that a machine can hold: small files, whole packages, pinned versions,
no torchvision."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "raytrain", "tuning", "jobs")
LONGEST = 400
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def sources() -> list[Path]:
    """Every Python file of the project."""
    return sorted(
        file for folder in (*PACKAGES, "tests") for file in (ROOT / folder).rglob("*.py")
    )


def test_files_stay_small_enough_to_read() -> None:
    long = {
        str(f.relative_to(ROOT)): n
        for f in sources()
        if (n := len(f.read_text().splitlines())) > LONGEST
    }
    assert not long, f"files over {LONGEST} lines; cut them along a seam: {long}"


def test_every_package_is_a_regular_package() -> None:
    folders = {file.parent for file in sources()}
    without = sorted(
        str(folder.relative_to(ROOT))
        for folder in folders
        if not (folder / "__init__.py").exists()
    )
    assert not without, (
        "folders without __init__.py, which an installed module of the same name would shadow: "
        f"{without}"
    )


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_every_dependency_is_pinned_and_installed_so(requirement: str) -> None:
    match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", requirement)
    assert match, f"{requirement!r} is not pinned with =="
    name, version = match.groups()
    assert importlib.metadata.version(name).split("+")[0] == version


def test_torchvision_is_not_needed() -> None:
    assert not any(
        requirement.startswith("torchvision") for requirement in PROJECT["dependencies"]
    )
    assert importlib.util.find_spec("torchvision") is None, (
        "torchvision is installed: the tests cannot show we need none"
    )


def test_the_package_cannot_be_published_by_accident() -> None:
    assert "Private :: Do Not Upload" in PROJECT["classifiers"]


def test_the_licence_is_the_one_declared() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )
