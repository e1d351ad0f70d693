"""The cluster YAMLs pass Ray's own offline checks, and keep the promises that those checks do not
know."""

import copy
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import cluster

FILES = sorted(Path(cluster.__file__).parent.glob("*.yaml"))
CLOUDS = [path for path in FILES if path.stem != "local"]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def settings(request):
    return yaml.safe_load(request.param.read_text())


def test_there_is_one_for_each_place():
    assert [path.stem for path in FILES] == ["aws", "gcp", "local"]


def test_ray_accepts_it(settings):
    validate_config(prepare_config(copy.deepcopy(settings)))


def test_ray_rejects_a_misspelt_key(settings):
    """The check above means something."""
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(prepare_config({**settings, "idle_timeout_minuets": 5}))


def test_every_node_asks_for_the_token(settings):
    mounted = [target for target in settings["file_mounts"] if target.endswith("raytrain/token")]
    assert len(mounted) == 1
    for kind in ("head", "worker"):
        start = settings[f"{kind}_start_ray_commands"][-1]
        assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in start
        assert mounted[0].replace("~", "$HOME") in start
        assert start.index("export") < start.index("ray start")


def test_the_dashboard_stays_on_loopback(settings):
    assert "--dashboard-host=127.0.0.1" in settings["head_start_ray_commands"][-1]


def test_it_grows_shrinks_and_installs_this_project(settings):
    assert settings["idle_timeout_minutes"] > 0
    assert settings["max_workers"] >= 1
    assert "--autoscaling-config" in settings["head_start_ray_commands"][-1]
    assert any("pip install" in command for command in settings["setup_commands"])


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_a_cloud_pays_only_for_what_runs(path):
    types = yaml.safe_load(path.read_text())["available_node_types"]
    assert all(node["min_workers"] == 0 for node in types.values())
    assert types["head"]["resources"]["CPU"] == 0
    assert any(node["resources"].get("GPU") for node in types.values())
    assert any(not node["resources"].get("GPU") and node["max_workers"] for node in types.values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_header_says_what_was_not_run(path):
    assert "NOT yet run" in path.read_text()
