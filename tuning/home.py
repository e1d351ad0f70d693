"""Where a sweep's study is kept, and that one driver alone writes it.

    output is a local folder    <output>/tune/study.db, under a lock
    output is elsewhere         a copy on this machine's disk, written as <output>/tune/study.db
                                after each event; under a lease
    tune.storage                a study of its own in that database; under a lease. Its name is in
                                <output>/tune/study.json, so that sweeps never meet

Whatever is in a study survives its driver: the next one, on any machine, takes it up from there.
"""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from raytrain import lock, storage
from raytrain.config import Config
from raytrain.errors import UserError
from tuning import database, mirror
from tuning.lease import STALE, Lease, held

NAME = "raytrain"
"""The one study of a study.db."""
_FILE, _LEASE = "study.db", "lease"


@dataclass(frozen=True)
class Home:
    """A study while this process is its driver."""

    storage: BaseStorage
    name: str
    watch: str
    """How a user sees it live, in words."""
    event: Callable[[], AbstractContextManager[None]] = nullcontext
    """The study is written in such a block: it begins with a UserError where another driver took
    over, and at its end the study is kept."""


def folder(config: Config) -> str:
    """Return the sweep's folder."""
    return storage.join(config.output, "tune")


def url(config: Config) -> str:
    """Return the SQLite address of a study in a local folder."""
    return f"sqlite:///{storage.resolve(_file(config))[1]}"


@contextmanager
def opened(config: Config, stale: float = STALE) -> Iterator[Home]:
    """Open the sweep's study and be its driver for the length of the block; UserError where there
    is another one, heard of less than `stale` seconds ago, or the study cannot be opened.

    A kill frees a local folder at once, and everything else after `stale` seconds.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with lock.locked(
        folder(config), "Another sweep is running", "two would run each other's trials"
    ):
        _check_moved(config)
        if config.tune.storage:
            home = _in_database(config, stale)
        elif storage.is_local(config.output):
            home = _in_folder(config)
        else:
            home = _mirrored(config, stale)
        with home as found:
            yield found


@contextmanager
def _in_folder(config: Config) -> Iterator[Home]:
    with _sqlite(url(config)) as backend:
        yield Home(backend, NAME, f"optuna-dashboard {url(config)}")


@contextmanager
def _mirrored(config: Config, stale: float) -> Iterator[Home]:
    with mirror.taken_up(folder(config), _FILE, stale) as (copy, event):
        with _sqlite(f"sqlite:///{copy}") as backend:
            yield Home(
                backend,
                NAME,
                f"optuna-dashboard sqlite:///{copy} (on {socket.gethostname()}, while the sweep "
                f"runs; what is kept is {_file(config)})",
                event,
            )


@contextmanager
def _in_database(config: Config, stale: float) -> Iterator[Home]:
    backend = database.connect(config.tune.storage)
    name = _named(config, backend)
    study = optuna.load_study(storage=backend, study_name=name)
    lease = Lease(
        folder(config),
        lambda: study.user_attrs.get(_LEASE),
        lambda new: study.set_user_attr(_LEASE, new),
    )

    @contextmanager
    def event() -> Iterator[None]:
        lease.beat()
        yield

    watch = f"{database.watch(config.tune.storage)} (its study {name!r})"
    with held(lease, stale):
        yield Home(backend, name, watch, event)


def _named(config: Config, backend: BaseStorage) -> str:
    """Return the name of the sweep's study in a database, where it is made if it is new."""
    record = _record(config)
    if not storage.exists(record):
        place = re.sub("//[^/@]*@", "//", config.output.partition("?")[0])  # no keys of a store
        name = f"{place[-200:]} {uuid.uuid4().hex[:8]}"
        optuna.create_study(storage=backend, study_name=name, direction="maximize")
        if storage.write_new_json(record, {"study": name, "storage": config.tune.storage}):
            return name
        optuna.delete_study(storage=backend, study_name=name)  # another driver was quicker
    known = storage.read_json(record)
    try:
        backend.get_study_id_from_name(known["study"])
    except KeyError:
        raise UserError(
            f"The sweep in {folder(config)!r} keeps its study {known['study']!r} in "
            f"{known['storage']!r}, and tune.storage = {config.tune.storage!r} has none of that "
            "name; its finished trials would be run again. Restore tune.storage, or choose "
            "another output folder."
        ) from None
    return str(known["study"])


def _check_moved(config: Config) -> None:
    """Raise UserError where the sweep's study is kept elsewhere than the config says now."""
    wanted = config.tune.storage
    if wanted and storage.exists(_file(config)):
        here, now = _file(config), f"tune.storage = {wanted!r}"
    elif not wanted and storage.exists(_record(config)):
        here, now = str(storage.read_json(_record(config))["storage"]), "there is no tune.storage"
    else:
        return
    raise UserError(
        f"The sweep in {folder(config)!r} keeps its study in {here!r}, but now {now}; its "
        "finished trials would be run again. Set it back, or choose another output folder."
    )


@contextmanager
def _sqlite(address: str) -> Iterator[RDBStorage]:
    try:
        backend = RDBStorage(address, engine_kwargs={"connect_args": {"timeout": 60}})
    except SQLAlchemyError as error:
        raise UserError(
            f"A sweep's study must be a readable SQLite file, but {address} is not: "
            f"{getattr(error, 'orig', None) or error}. Nothing was run. Restore the file, or "
            "choose another output folder."
        ) from error
    try:
        yield backend
    finally:
        backend.remove_session()
        backend.engine.dispose()


def _file(config: Config) -> str:
    return storage.join(folder(config), _FILE)


def _record(config: Config) -> str:
    return storage.join(folder(config), "study.json")
