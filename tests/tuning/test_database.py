"""`tune.storage`: what an address may say, what is told of a wrong one, and that no password is
written or printed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raytrain.config.file import to_toml
from raytrain.errors import UserError
from tests.tuning.fake import make_config
from tests.tuning.postgres import PASSWORD, VARIABLE
from tuning import check, database, home, leaderboard, study


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgres://host/db", r"Did you mean postgresql://\?"),
        ("redis://host/1", "got redis:// in 'redis://host/1'"),
        ("runs/studies.db", "must be the address of a database"),
        ("sqlite://", "must be the address of a database"),
        ("journal://host/file", "must be the address of a database"),
        ("postgresql://host:port/db", "a port is a number"),
        ("postgresql+nothing://host/db", "must be the address of a database"),
        ("postgresql://u:${RAYTRAIN_UNSET}@host/db", "variable RAYTRAIN_UNSET, which is not set"),
        ("mysql://host/db", '`pip install "mysqlclient"`, or write mysql\\+pymysql://'),
    ],
)
def test_a_wrong_address_is_told_without_a_connection(
    tmp_path: Path, address: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        check.check(make_config(tmp_path, storage=address))


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r'pip install "psycopg\[binary\]"'):
        database.check("postgresql://host/db")


@pytest.mark.parametrize(
    "address", ["postgresql://u:secret@host/db", "mysql+pymysql://host/db?a=1&password=secret"]
)
def test_a_password_in_the_config_is_refused_and_not_repeated(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(UserError, match=r"tune.storage: it holds a password.*\$\{NAME\}") as told:
        make_config(tmp_path, storage=address)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql://u:${SECRET}@127.0.0.1:1/db", "refused"),
        ("sqlite:////nowhere/at/all/studies.db", "unable to open database file"),
        ("journal:///nowhere/at/all/studies.log", "No such file or directory"),
    ],
)
def test_a_database_that_cannot_be_reached_is_told_before_a_trial(
    tmp_path: Path, address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    config = make_config(tmp_path, storage=address)
    check.check(config)
    with pytest.raises(UserError, match=f"(?s){told}.*No trial was run") as error:
        with home.opened(config):
            pass
    assert "hunter2" not in str(error.value)


def test_the_whole_address_may_be_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIES", f"journal://{tmp_path}/studies.log")
    config = make_config(tmp_path, storage="${STUDIES}")
    with home.opened(config) as kept:
        study.open_study(config, kept)
        assert kept.watch.startswith(f'optuna-dashboard "{tmp_path}/studies.log" (its study ')
    assert (tmp_path / "studies.log").stat().st_size > 0


@pytest.mark.postgres
def test_a_password_is_written_and_printed_nowhere(tmp_path: Path, postgres: str) -> None:
    config = make_config(tmp_path, storage=postgres)
    with home.opened(config) as kept:
        study.open_study(config, kept)
    leaderboard.write_winner(config, {"train.learning_rate": 1e-4, "method.rank": 4})
    assert (
        f'optuna-dashboard "{postgres}" with {VARIABLE} percent-encoded (its study ' in kept.watch
    )
    written = [kept.watch, to_toml(config)]
    written += [file.read_text() for file in Path(home.folder(config)).iterdir()]
    assert sum(f"${{{VARIABLE}}}" in text for text in written) == 4
    assert not any(PASSWORD in text for text in written)
