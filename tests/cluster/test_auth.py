import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster import auth
from cluster.errors import ClusterError

SHOW = (
    "from cluster import auth; import os; auth.enable(); print(os.environ['RAY_AUTH_MODE'], "
    "auth.describe())"
)


def show(**variables):
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
    }
    return subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**inherited, **variables},
        capture_output=True,
        text=True,
    )


def test_a_missing_token_file_is_created_private_and_random(tmp_path):
    paths = [tmp_path / "a" / "token", tmp_path / "b" / "token"]
    for path in paths:
        auth.ensure_token(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = (path.read_text() for path in paths)
    assert len(first) == 64
    assert first != second
    assert not list(tmp_path.rglob(".token-*"))


def test_an_existing_token_is_kept(tmp_path):
    path = tmp_path / "token"
    auth.ensure_token(path)
    before = path.read_text()
    auth.ensure_token(path)
    assert path.read_text() == before


def test_processes_that_start_together_agree_on_one_token(tmp_path):
    path = tmp_path / "token"

    def read(_):
        auth.ensure_token(path)
        return path.read_text()

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(read, range(64)))) == 1


def test_a_token_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o644)
    with pytest.raises(ClusterError, match="chmod 600"):
        auth.ensure_token(path)


def test_an_empty_token_is_refused(tmp_path):
    path = tmp_path / "token"
    path.touch(mode=0o600)
    with pytest.raises(ClusterError, match="empty"):
        auth.ensure_token(path)


def test_the_path_comes_from_the_environment(tmp_path):
    assert auth.token_path({auth.PATH_VARIABLE: str(tmp_path / "t")}) == tmp_path / "t"
    assert auth.token_path({}).parts[-3:] == (".config", "raytrain", "token")


def test_enable_names_our_file(tmp_path):
    shown = show(RAYTRAIN_TOKEN_PATH=str(tmp_path / "t"))
    assert shown.stdout.split() == ["token", str(tmp_path / "t")], shown.stderr


def test_enable_respects_a_surrounding_job(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("abc")
    shown = show(RAYTRAIN_TOKEN_PATH=str(tmp_path / "t"), RAY_AUTH_TOKEN_PATH=str(theirs))
    assert shown.stdout.split() == ["token", str(theirs)], shown.stderr
    assert show(RAY_AUTH_TOKEN="abc").stdout.split() == ["token", "RAY_AUTH_TOKEN"]
    assert not (tmp_path / "t").exists()


def test_a_token_path_that_names_nothing_is_said_before_ray_aborts(tmp_path):
    shown = show(RAY_AUTH_TOKEN_PATH=str(tmp_path / "nothing"))
    assert shown.returncode != 0
    assert "must name a readable file" in shown.stderr


def test_enable_reaches_a_ray_that_was_imported_before(tmp_path):
    code = (
        "import ray; from cluster import auth; auth.enable()\n"
        "from ray._private.authentication import http_token_authentication as http\n"
        "print(list(http.get_auth_headers_if_auth_enabled({}).values())[0] == "
        "auth.bearer()['Authorization'])"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
    }
    environment["RAYTRAIN_TOKEN_PATH"] = str(tmp_path / "t")
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert shown.stdout.strip() == "True", shown.stderr
