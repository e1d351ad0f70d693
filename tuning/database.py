"""`tune.storage`: a database that keeps the studies of many sweeps, by the address that Optuna
takes.

    postgresql://user:${PASSWORD}@host/name    mysql+pymysql://...    sqlite:////path/studies.db
    journal:///path/studies.log                a file on a shared disk that SQLite cannot use

`${NAME}` stands for an environment variable of the driver, the only process that connects: the
config, and what is made of it, never holds a password.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from raytrain.config.tune import REFERENCE
from raytrain.errors import UserError, nearest

KINDS = ("postgresql", "mysql", "mariadb", "sqlite", "journal")
PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
"""Module of a driver -> what is installed, where that has another name."""
SECONDS = 10
"""Of waiting for a server's answer."""


def check(address: str) -> None:
    """Raise UserError for what is wrong with an address that can be known without connecting: its
    form, its environment variables, a driver that is not installed."""
    url = _url(address)
    if url.get_backend_name() == "journal":
        return
    try:
        url.get_dialect().import_dbapi()
    except ImportError as error:
        module = error.name or url.drivername
        hint = " or write mysql+pymysql:// and install pymysql," if module == "MySQLdb" else ""
        raise UserError(
            f"tune.storage = {address!r} is read by the Python package {module!r}, which is not "
            "installed here; no trial could be recorded. Run "
            f'`pip install "{PACKAGES.get(module, module)}"`,{hint} or leave tune.storage out: '
            "the study is then a file in the output folder."
        ) from error


def connect(address: str) -> BaseStorage:
    """Return the database of an address; UserError where it cannot be reached."""
    check(address)
    url = _url(address)
    try:
        if url.get_backend_name() == "journal":
            return JournalStorage(JournalFileBackend(f"/{url.database}"))
        return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=_options(url))
    except (SQLAlchemyError, OSError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        if url.password:
            reason = reason.replace(str(url.password), "***")
        raise UserError(
            f"tune.storage = {address!r} must be a database that can be opened, but: {reason}. No "
            "trial was run. Start it or correct the address; a folder of it must be there."
        ) from None


def watch(address: str) -> str:
    """Return the command that shows the studies of a database; the shell puts variables in, as
    they stand."""
    url = _url(address)
    if url.get_backend_name() == "journal":
        return f'optuna-dashboard "/{url.database}"'
    found = [] if REFERENCE.fullmatch(address) else REFERENCE.finditer(address)
    odd = [name.group(1) for name in found if quote(_value(name)) != _value(name)]
    hint = f" with {', '.join(odd)} percent-encoded" if odd else ""
    return f'optuna-dashboard "{address}"{hint}'


def _options(url: URL) -> dict[str, object]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    known = url.get_driver_name() in ("psycopg", "psycopg2", "pymysql", "mysqldb")
    # a server closes connections that idle through a long trial
    return {
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": SECONDS} if known else {},
    }


def _url(address: str) -> URL:
    """Return an address in its parts, with environment variables put in."""
    whole = REFERENCE.fullmatch(address)
    text = _value(whole) if whole else REFERENCE.sub(lambda name: quote(_value(name)), address)
    try:
        url = make_url(text)
        kind = url.get_backend_name()
        if kind in KINDS and kind != "journal":
            url.get_dialect()
    except (ArgumentError, ValueError):
        raise _unreadable(address) from None
    if kind not in KINDS:
        guess = nearest(kind, KINDS)
        hint = f" Did you mean {guess}://?" if guess else ""
        raise UserError(
            f"tune.storage must be the address of a database that Optuna knows, got {kind}:// in "
            f"{address!r}; no study could be kept.{hint} Known: {', '.join(KINDS)}."
        )
    if kind in ("sqlite", "journal") and (url.host or url.database in (None, "", ":memory:")):
        raise _unreadable(address)
    return url


def _value(reference: re.Match[str]) -> str:
    name = reference.group(1)
    if not (value := os.environ.get(name)):
        raise UserError(
            f"tune.storage asks for the environment variable {name}, which is not set here; the "
            "database could not be opened. Set it where the command runs; `raytrain submit` "
            f"takes it along with --env {name}."
        )
    return value


def _unreadable(address: str) -> UserError:
    return UserError(
        f"tune.storage must be the address of a database, got {address!r}; no study could be "
        "kept. Write postgresql://user:${PASSWORD}@host/name, mysql+pymysql://..., "
        "sqlite:///file or journal:///path; a port is a number."
    )
