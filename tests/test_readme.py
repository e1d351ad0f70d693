"""What README and the guides say that a machine can check."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from jobs import STAGES
from raytrain import plugins
from raytrain.config.data import CaptionConfig
from raytrain.config.file import parse
from raytrain.families import Family
from tests import readme

ROOT = readme.README.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
EXAMPLES = ("/shout.py", "/brightness.py", "/plain.py", "/sd15_wide.py", "/bias.py", "/length.py")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, text) of every fenced block in a language."""
    return [
        (page, block)
        for page, text in TEXTS.items()
        for found, block in BLOCK.findall(text)
        if found == language
    ]


def test_the_table_of_families_and_methods_is_the_registry() -> None:
    text = TEXTS["README.md"]
    assert readme.written(text) == text, "run: python -m tests.readme --write"
    for kind in ("families", "methods"):
        assert all(name in readme.table() for name in plugins.names(kind))


def test_an_outdated_table_is_seen_and_written_anew() -> None:
    text = TEXTS["README.md"]
    assert readme.written(text.replace(readme.table(), "| family |")) == text
    with pytest.raises(SystemExit, match="must hold the lines"):
        readme.written(text.replace(readme.END, ""))


def test_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150


@pytest.mark.parametrize(("page", "block"), blocks("toml"))
def test_every_config_shown_is_one(page: str, block: str) -> None:
    parse(tomllib.loads(block))


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_every_module_shown_offers_its_contract(page: str, block: str) -> None:
    name = re.findall(
        r"`raytrain/([\w/]+)/\w+\.py`, used by", TEXTS[page][: TEXTS[page].index(block)]
    )[-1]
    module = ModuleType("shown")
    exec(compile(block, page, "exec"), module.__dict__)
    offered = {
        "data/captioners": ("Options", "PROMPT", "NEEDS_PATH", "version", "load"),
        "evaluate/scorers": ("BETTER", "LABEL", "score"),
        "export/formats": ("TAKES", "write"),
        "families": [name for name in vars(Family) if not name.startswith("_")],
        "methods": ("Config", "build"),
        "data/columns": ("OF", "MAKER", "version", "load"),
    }
    assert [part for part in offered[name] if not hasattr(module, part)] == []


def test_the_captioner_shown_captions() -> None:
    [block] = [block for _, block in blocks("python") if "class Shouter" in block]
    module = ModuleType("shown")
    exec(compile(block, "shout.py", "exec"), module.__dict__)
    config = CaptionConfig(captioner="openai", options={"base_url": "http://here", "model": "m"})
    config = config.model_copy(update={"options": {"mark": "?"}})
    assert module.load(config).caption([Image.new("RGB", (3, 2))]) == ["3 BY 2?"]
    assert module.version(config) != module.version(config.model_copy(update={"options": {}}))


def test_the_scorer_shown_scores() -> None:
    [block] = [block for _, block in blocks("python") if "LABEL" in block]
    module = ModuleType("shown")
    exec(compile(block, "brightness.py", "exec"), module.__dict__)
    images = [Image.new("RGB", (2, 2), color) for color in ("black", "white")]
    assert module.score(SimpleNamespace(images=images)) == [0.0, 1.0]


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXTS[page]):
        assert "://" in target or (ROOT / Path(page).parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", TEXTS)
def test_files_and_commands_named_are_there(page: str) -> None:
    for name in re.findall(
        r"`((?:tests|raytrain|infra|cluster|jobs|tuning)/[\w./-]+)`", TEXTS[page]
    ):
        example = name.endswith(EXAMPLES)  # of CONTRIBUTING
        assert example or (ROOT / name).exists(), f"{page}: {name}"
    for stage in re.findall(r"\braytrain ([a-z]+) (?:my\.toml|runs/)", TEXTS[page]):
        assert stage in STAGES, f"{page}: raytrain {stage}"
    targets = re.findall(
        r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    for target in re.findall(r"`make ([\w-]+)", TEXTS[page]):
        assert target in targets, f"{page}: make {target}"
