"""The cluster YAMLs pass Ray's own offline checks, and keep the promises that those checks do not
know."""

import copy
import json
from pathlib import Path

import botocore.session
import botocore.validate
import pytest
import ray.autoscaler._private
import yaml
from ray.autoscaler._private.resource_demand_scheduler import (
    _default_utilization_scorer,
    get_nodes_for,
)
from ray.autoscaler._private.util import prepare_config, validate_config

import cluster

FILES = sorted(Path(cluster.__file__).parent.glob("*.yaml"))
AUTOSCALER = Path(ray.autoscaler._private.__file__).parent
CLOUDS = [path for path in FILES if path.stem != "local"]

INSTANCE = {
    "machineType": None,
    "disks": {"boot", "autoDelete", "type", "initializeParams"},
    "guestAccelerators": {"acceleratorType", "acceleratorCount"},
    "metadata": {"items"},
    "serviceAccounts": {"email", "scopes"},
    "scheduling": {
        *("onHostMaintenance", "automaticRestart"),
        *("provisioningModel", "instanceTerminationAction"),
    },
}
"""Fields of Compute Engine's `instances.insert`, from its reference, by hand: its client library
brings no schema."""


def read(path):
    return yaml.safe_load(path.read_text())


def node_types(path):
    return read(path)["available_node_types"]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def settings(request):
    return read(request.param)


def test_there_is_one_for_each_place():
    assert [path.stem for path in FILES] == ["aws", "azure", "gcp", "local"]


def test_ray_accepts_it(settings):
    validate_config(prepare_config(copy.deepcopy(settings)))


def test_ray_rejects_a_misspelt_key(settings):
    """The check above means something."""
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(prepare_config({**settings, "idle_timeout_minuets": 5}))


def unread(provider):
    """The keys of a provider that the code of Ray's provider never names."""
    folder = AUTOSCALER / {"azure": "_azure"}.get(provider["type"], provider["type"])
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    return {key for key in provider if f'"{key}"' not in code} - {"type"}


def test_a_provider_has_only_keys_that_ray_reads(settings):
    """Ray's own checks let any through."""
    assert not unread(settings["provider"])
    assert unread({**settings["provider"], "availabilty_zone": "a"}) == {"availabilty_zone"}


def ec2_problems(node_config):
    """What EC2's own model of RunInstances says of a node's config, as Ray sends it."""
    session = botocore.session.get_session()
    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    request = {**node_config, "MinCount": 1, "MaxCount": 1}
    return botocore.validate.ParamValidator().validate(request, shape).generate_report()


def azure_problems(node_config):
    """What Ray's template of an Azure machine does not take."""
    known = json.loads((AUTOSCALER / "_azure/azure-vm-template.json").read_text())["parameters"]
    types = {"string": str, "int": int, "object": dict, "bool": bool, "array": list}
    given = node_config["azure_arm_parameters"]
    wrong = [
        name
        for name, value in given.items()
        if name not in known or not isinstance(value, types[known[name]["type"]])
    ]
    return wrong + sorted(set(node_config) - {"azure_arm_parameters"})


def gcp_problems(node_config):
    """The fields of a Compute Engine instance that are not there, or have fields that are not."""
    wrong = sorted(set(node_config) - set(INSTANCE))
    for name, fields in INSTANCE.items():
        value = node_config.get(name, {})
        for each in value if isinstance(value, list) else [value]:
            wrong += sorted(set(each) - fields) if fields else []
    return wrong


PROBLEMS = {"aws": ec2_problems, "azure": azure_problems, "gcp": gcp_problems}


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_a_node_is_what_its_cloud_takes(path):
    for name, node in node_types(path).items():
        assert not PROBLEMS[path.stem](node["node_config"]), name


@pytest.mark.parametrize(
    ("cloud", "wrong"),
    [
        ("aws", {"InstanceMarketOptions": {"MarketTyp": "spot"}}),
        ("azure", {"azure_arm_parameters": {"vmSise": "Standard_D4s_v5"}}),
        ("azure", {"azure_arm_parameters": {"osDiskSize": "300"}}),
        ("gcp", {"scheduling": {"provisioningModle": "SPOT"}}),
        ("gcp", {"scheduling": [{"preemptible": True}]}),
    ],
)
def test_what_a_cloud_would_not_take_is_found(cloud, wrong):
    assert PROBLEMS[cloud](wrong)


def test_every_node_asks_for_the_token(settings):
    mounted = [target for target in settings["file_mounts"] if target.endswith("raytrain/token")]
    assert len(mounted) == 1
    assert any(command.startswith("chmod 600") for command in settings["setup_commands"])
    for kind in ("head", "worker"):
        start = settings[f"{kind}_start_ray_commands"][-1]
        assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in start
        assert mounted[0].replace("~", "$HOME") in start
        assert start.index("export") < start.index("ray start")


def test_the_token_is_never_shown(settings):
    commands = [
        command
        for key, value in settings.items()
        if key.endswith("_commands")
        for command in value
        if "raytrain/token" in command
    ]
    assert all(
        command.startswith("chmod 600 ") or "RAY_AUTH_TOKEN_PATH=" in command
        for command in commands
    )


def test_no_task_runs_on_the_head_and_its_dashboard_stays_on_loopback(settings):
    start = settings["head_start_ray_commands"][-1]
    assert {"--num-cpus=0", "--num-gpus=0", "--dashboard-host=127.0.0.1"} <= set(start.split())


def test_it_installs_this_project_and_leaves_nodes_to_the_autoscaler(settings):
    assert "--autoscaling-config" in settings["head_start_ray_commands"][-1]
    assert any("pip install" in command for command in settings["setup_commands"])


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_a_cloud_pays_only_for_what_runs(path):
    settings = read(path)
    workers = {name: node for name, node in node_types(path).items() if name != "head"}
    assert settings["idle_timeout_minutes"] > 0
    assert settings["max_workers"] == sum(node["max_workers"] for node in workers.values())
    assert all(node["min_workers"] == 0 for node in node_types(path).values())
    assert node_types(path)["head"]["resources"] == {"CPU": 0}
    assert node_types(path)["head"]["max_workers"] == 0


def test_machines_of_ones_own_all_join():
    """Ray does not know what they have before they do: with fewer at the start none would come for
    a job."""
    prepared = prepare_config(read(next(path for path in FILES if path.stem == "local")))
    (node,) = prepared["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(prepared["provider"]["worker_ips"])


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_only_the_spot_type_may_be_taken_away(path):
    for name, node in node_types(path).items():
        wanted = {"gpu_spot": "spot", "gpu_train": "on-demand"}.get(name)
        assert node.get("labels", {}).get("ray.io/market-type") == wanted
        taken = "spot" in json.dumps(node["node_config"]).lower()
        assert taken == (name == "gpu_spot")


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("asked", "comes"),
    [("gang", "gpu_train"), ("one GPU", "gpu_spot"), ("CPUs", "cpu")],
)
def test_rays_autoscaler_starts_the_type_that_fits(path, asked, comes):
    types = prepare_config(read(path))["available_node_types"]
    gang = types["gpu_train"]["resources"]["GPU"]
    bundles = {
        "gang": [{"CPU": 1, "GPU": 1}] * gang,
        "one GPU": [{"CPU": 1, "GPU": 1}],
        "CPUs": [{"CPU": 2}] * 4,
    }[asked]

    def score(resources, demands, kind):
        return _default_utilization_scorer(
            resources, demands, kind, node_availability_summary=None
        )

    nodes, left = get_nodes_for(types, {"head": 1}, "head", 8, bundles, score)
    assert (dict(nodes), left) == ({comes: 1}, [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_header_says_what_was_not_run(path):
    assert "NOT yet run" in path.read_text()
