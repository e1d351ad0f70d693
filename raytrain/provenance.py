"""What made a result: program version, commit, library versions, machine."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from raytrain import __version__, storage
from raytrain.config import Config
from raytrain.config.file import to_toml

PACKAGES = (
    "torch",
    "ray",
    "deepspeed",
    "diffusers",
    "transformers",
    "peft",
    "bitsandbytes",
    "optuna",
    "pyarrow",
    "numpy",
)


@functools.cache
def commit() -> str:
    """Return the checkout's commit, `-dirty` when files differ from it,
    or `unknown` outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python, raytrain and the libraries that decide results."""
    return {
        "python": platform.python_version(),
        "raytrain": __version__,
        **{p: metadata.version(p) for p in PACKAGES},
    }


def record(config: Config) -> None:
    """Keep the resolved config and what runs it next to a run's results: `config.toml`,
    `environment.json`."""
    storage.write_bytes(storage.join(config.output, "config.toml"), to_toml(config).encode())
    facts: dict[str, Any] = {
        "commit": commit(),
        "versions": versions(),
        "machine": platform.platform(),
    }
    storage.write_json(storage.join(config.output, "environment.json"), facts)
