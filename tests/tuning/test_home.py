"""Where a study is kept: each event reaches the store, another machine takes it up, a second
driver is refused, and sweeps never meet."""

from __future__ import annotations

import os
import shlex
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard._storage_url import get_storage

from raytrain import storage
from raytrain.config import Config
from raytrain.errors import UserError
from tests.tuning import postgres
from tests.tuning.fake import make_config
from tests.tuning.test_study import changed
from tuning import home, lease, mirror, space, study
from tuning.search import NUMBER, Recorder, StudySearch
from tuning.stopping import StoppingRule

Make = Callable[..., Config]


POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@pytest.fixture(params=["s3", "journal", "sqlite", POSTGRES])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A maker of sweeps by name, whose studies lie on one S3 store or in one database."""
    kind = request.param

    def made(name: str, **changes: object) -> Config:
        if kind == "s3":
            uri = storage.join(request.getfixturevalue("bucket"), tmp_path.name, name)
            return make_config(uri, **changes)
        address = {
            "journal": f"journal://{tmp_path}/studies.log",
            "sqlite": f"sqlite:///{tmp_path}/studies.db",
        }.get(kind) or request.getfixturevalue("postgres")
        return make_config(tmp_path / name, storage=address, **changes)

    return made


def test_a_study_goes_on_where_its_driver_was_lost(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.lock, "locked", lambda *_: nullcontext())  # on another machine
    config = make("a")
    with home.opened(config) as lost:  # ... and its machine dies in this block
        first = study.open_study(config, lost)
        with lost.event():
            done = first.ask(space.distributions(config))
            first.tell(done, 0.5)
        with lost.event():
            running = first.ask(space.distributions(config))
        with home.opened(config, stale=0) as kept:
            again = study.open_study(config, kept)
            assert [(t.number, t.value) for t in study.finished(again)] == [(done.number, 0.5)]
            assert again.trials[running.number].state == TrialState.FAIL
            assert again.ask(space.distributions(config)).params == running.params
            with pytest.raises(UserError, match=r"took the sweep in .* over"), lost.event():
                first.ask(space.distributions(config))


def test_a_second_driver_is_refused_in_words(make: Make) -> None:
    config = make("a")
    with home.opened(config) as kept:
        study.open_study(config, kept)
        refused = r"two would run each other's trials"
        with pytest.raises(UserError, match=refused), home.opened(config, stale=3600):
            pass
    with home.opened(config, stale=3600):  # given back at the end
        pass


def test_sweeps_side_by_side_do_not_meet(make: Make) -> None:
    one, other = make("one"), make("other", trials=3)
    with home.opened(one) as here, home.opened(other) as there:
        first, second = study.open_study(one, here), study.open_study(other, there)
        with here.event():
            first.ask(space.distributions(one))
        assert [len(each.trials) for each in (first, second)] == [1, 1]
        assert second.trials[0].state == TrialState.WAITING


def test_the_command_that_is_told_shows_the_study(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make("a")
    with home.opened(config) as kept:
        study.open_study(config, kept)
        if f"with {postgres.VARIABLE} percent-encoded" in kept.watch:
            monkeypatch.setenv(postgres.VARIABLE, quote(postgres.PASSWORD))
        program, address, *_ = shlex.split(os.path.expandvars(kept.watch))
        assert program == "optuna-dashboard"
        shown = get_storage(address)
        assert kept.name in {one.study_name for one in shown.get_all_studies()}


def test_an_object_store_has_each_event_as_it_happens(bucket: str, tmp_path: Path) -> None:
    config = make_config(storage.join(bucket, "events"), include_default=False)

    def kept() -> list[tuple[TrialState, int, str]]:
        copy = tmp_path / "copy.db"
        copy.write_bytes(storage.read_bytes(storage.join(home.folder(config), "study.db")))
        with closing(sqlite3.connect(copy)) as opened:
            assert opened.execute("pragma integrity_check").fetchone() == ("ok",)
        found = optuna.load_study(study_name=home.NAME, storage=f"sqlite:///{copy}").trials
        return [
            (t.state, len(t.intermediate_values), t.user_attrs.get("reason", "")) for t in found
        ]

    with home.opened(config) as held:
        opened = study.open_study(config, held)
        assert kept() == []
        rule = StoppingRule(config.tune)
        search = StudySearch(opened, held, space.distributions(config))
        trials = storage.join(home.folder(config), "trials")
        recorder = Recorder(opened, held, search, rule, trials)

        def trial(name: str) -> Any:
            return SimpleNamespace(
                trial_id=name, config=search.suggest(name), last_result={"objective": -1.0},
                error_file=None,
            )  # fmt: skip

        one, two = trial("one"), trial("two")
        assert kept() == [(TrialState.RUNNING, 0, "")] * 2
        result = {"objective": -1.0, "evaluation": 1, "scores": {}, "step": 3, "seconds": 0.1}
        recorder.on_trial_result(0, [], one, result)
        assert kept()[one.config[NUMBER]] == (TrialState.RUNNING, 1, "")
        recorder.on_trial_complete(0, [], one)
        recorder.on_trial_error(0, [], two)
        assert kept() == [(TrialState.COMPLETE, 1, ""), (TrialState.FAIL, 0, "unknown error")]
        error = storage.join(trials, "1", "error.txt")
        assert storage.read_bytes(error) == b"unknown error"


def test_a_store_that_is_away_for_a_moment_ends_no_sweep(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(storage.join(bucket, "away"))
    monkeypatch.setattr(mirror, "WAITS", (0, 0))
    write, away = storage.write_bytes, iter((True, True, False, True, True, True))

    def written(uri: str, content: bytes) -> None:
        if "study.db" in uri and next(away):
            raise OSError(5, "away")
        write(uri, content)

    with home.opened(config) as kept:
        monkeypatch.setattr(storage, "write_bytes", written)
        opened = study.open_study(config, kept)
        with pytest.raises(OSError, match="away"), kept.event():
            opened.ask(space.distributions(config))
        monkeypatch.undo()


@pytest.mark.parametrize("begun", ["", "journal"])
def test_a_study_that_is_kept_elsewhere_is_not_begun_again(tmp_path: Path, begun: str) -> None:
    address = f"journal://{tmp_path}/studies.log"
    config = make_config(tmp_path, storage=address if begun else "")
    with home.opened(config) as kept:
        study.open_study(config, kept)
    moved = changed(config, "tune.storage", "" if begun else address)
    with pytest.raises(UserError, match="finished trials would be run again"):
        with home.opened(moved):
            pass
    if begun:
        other = changed(config, "tune.storage", f"sqlite:///{tmp_path}/studies.db")
        with pytest.raises(UserError, match="has none of that name"), home.opened(other):
            pass


def test_a_driver_that_waits_is_heard_of(tmp_path: Path) -> None:
    notes: list[Any] = [None]
    holding = lease.Lease("x", lambda: notes[-1], notes.append)
    with lease.held(holding, beat=0.01):
        began = len(notes)
        while len(notes) < began + 3:  # the test's own time-out ends it
            time.sleep(0.01)
    assert notes[-1] is None


def test_how_long_a_killed_driver_counts_as_alive_is_told() -> None:
    killed = {"owner": "o", "host": "node-7", "process": 41, "beat": time.time() - 20}
    notes: list[Any] = [killed]
    next_one = lease.Lease("s3://b/x/tune", lambda: notes[-1], notes.append)
    with pytest.raises(UserError, match=r"process 41 on node-7.* 2\d s ago.*goes on in \d+ s"):
        next_one.take(stale=3600)
    assert notes == [killed]
    next_one.take(stale=10)
    assert notes[-1]["owner"] != "o"


def test_a_file_that_is_no_study_is_told(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    Path(home.folder(config)).mkdir(parents=True)
    Path(home.folder(config), "study.db").write_bytes(b"something else" * 100)
    with pytest.raises(UserError, match="must be a readable SQLite file"), home.opened(config):
        pass
