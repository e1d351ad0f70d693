"""The folder is the registry: a plug-in's file name is its name;
a dotted path reaches a plug-in outside the project.

Kinds are the plug-in packages of `raytrain` (`families`, `methods`, `data.captioners`,
`evaluate.scorers`, ...). Listing names imports nothing; loading imports one module.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel, ValidationError

from raytrain.errors import UserError, unknown


def names(kind: str) -> list[str]:
    """Return the names of all plug-ins of a kind, in order, without importing them."""
    folder = Path(__file__).parent.joinpath(*kind.split("."))
    return sorted(
        m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")
    )


def check(kind: str, name: str) -> None:
    """Raise UserError unless `name` is a plug-in of this kind or a dotted path to an outside
    module."""
    if "." not in name and name not in names(kind):
        raise unknown(f"{kind.split('.')[-1]} plug-in", name, names(kind))


def module_name(kind: str, name: str) -> str:
    """Return the module that plug-in `name` of `kind` is."""
    return name if "." in name else f"raytrain.{kind}.{name}"


def load(kind: str, name: str) -> ModuleType:
    """Import and return the plug-in module `name` of `kind`."""
    check(kind, name)
    path = module_name(kind, name)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and path.startswith(error.name):
            raise UserError(
                f"A dotted plug-in name must be an importable module, got {name!r} for {kind}; "
                f"nothing named {error.name!r} is installed. Install it or correct the name."
            ) from error
        raise


def check_options(kind: str, name: str, options: dict[str, object], where: str) -> None:
    """Raise UserError unless `options`, which the config has at `where`,
    fit the plug-in's `Options` table."""
    check_table(load(kind, name).Options, f"{kind} {name!r}", options, where)


def check_table(
    table: type[BaseModel], what: str, options: Mapping[str, object], where: str
) -> None:
    """Raise UserError unless `options`, which the config has at `where`,
    fit a table of options of `what`."""
    for key in options:
        if key not in table.model_fields:
            if not table.model_fields:
                raise UserError(
                    f"unknown key '{where}.{key}': {what} takes no options. Leave it out."
                )
            raise unknown(f"unknown key '{where}.{key}' of {what}:", key, table.model_fields)
    try:
        table(**options)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join([where, *(str(part) for part in problem["loc"])])
            reason = problem["msg"].removeprefix("Value error, ")
            told = (
                f"{key}: {reason}"
                if problem["type"] == "value_error"
                else f"{key} = {problem['input']!r} is not allowed: {reason}"
            )
            lines.append(f"{told}.")
        raise UserError("\n".join(lines)) from None
