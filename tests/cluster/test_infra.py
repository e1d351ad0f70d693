"""The files of `infra/` parse, and keep the promises that a reader relies on."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

import cluster
from tests.cluster import crds, shapes

INFRA = Path(cluster.__file__).parent.parent / "infra"
CLUSTER_FILES = [f"cluster/{each}.yaml" for each in ("aws", "azure", "gcp", "local")]
MANIFESTS = ("raycluster.yaml", "rayjob.yaml", "networkpolicy.yaml", "secrets.yaml")
SECRET_NAME = re.compile(r"token|secret|password|credential|access_?key|api_?key", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|\b[0-9a-f]{32,}\b|\bhf_\w{20,}|\bgh[ps]_\w{20,}"
)


def documents(name):
    return list(yaml.safe_load_all((INFRA / name).read_text()))


def spec_of(name):
    spec = documents(name)[0]["spec"]
    return spec.get("rayClusterSpec", spec)


def groups_of(spec):
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def entries(value, path=()):
    """Every (path, value) of nested dicts and lists that is neither."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in pairs:
            yield from entries(each, (*path, key))
    else:
        yield path, value


@pytest.fixture(params=["raycluster.yaml", "rayjob.yaml"])
def spec(request):
    return spec_of(request.param)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_has_only_fields_that_its_kind_has(name):
    for document in documents(name):
        jsonschema.validate(document, shapes.KINDS[document["kind"]])


@pytest.mark.parametrize(
    ("name", "path", "key", "value"),
    [
        ("raycluster.yaml", "spec.headGroupSpec.template.spec", "restartPolice", "Never"),
        ("raycluster.yaml", "spec.autoscalerOptions", "idleTimeoutSeconds", "600"),
        ("rayjob.yaml", "spec", "backOffLimit", 2),
        ("networkpolicy.yaml", "spec.ingress.1.ports.0", "port", "8265"),
        ("secrets.yaml", "", "stringData", {"auth_token": "x"}),
    ],
)
def test_a_misspelt_key_or_a_wrong_type_is_found(name, path, key, value):
    document = documents(name)[0]
    at = document
    for step in path.split(".") if path else ():
        at = at[int(step) if step.isdecimal() else step]
    at[key] = value
    with pytest.raises(jsonschema.ValidationError, match=rf"{key}|{value}"):
        jsonschema.validate(document, shapes.KINDS[document["kind"]])


def test_kuberays_own_schema_is_read_strictly(tmp_path):
    """The check of the whole schema, on a definition in small."""
    schema = {"type": "object", "properties": {"kind": {"type": "string"}}}
    versions = [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]
    definition, manifest = tmp_path / "crd.yaml", tmp_path / "manifest.yaml"
    definition.write_text(yaml.safe_dump({"spec": {"versions": versions}}))
    manifest.write_text("{kind: RayCluster, sepc: {}}")
    assert "sepc" in crds.problems(manifest, definition)[0]
    manifest.write_text("kind: RayCluster")
    assert crds.problems(manifest, definition) == []


@pytest.mark.parametrize("name", [*MANIFESTS, "prometheus.yml", *CLUSTER_FILES])
def test_no_manifest_holds_a_secret(name):
    path = INFRA.parent / name if "/" in name else INFRA / name
    for document in yaml.safe_load_all(path.read_text()):
        assert not {"data", "stringData"} & set(document)
        for where, value in entries(document):
            assert not SECRET_VALUE.search(str(value)), where
        for where, _ in entries(document):
            if where[-1] == "value" and "env" in where:
                variable = document
                for step in where[:-1]:
                    variable = variable[step]
                assert not SECRET_NAME.search(variable["name"]), where


def test_kubernetes_clusters_ask_for_the_token_of_a_secret(spec):
    token, storage = (each["metadata"]["name"] for each in documents("secrets.yaml"))
    assert spec["authOptions"] == {"mode": "token", "secretName": token}
    for group in groups_of(spec):
        pod = group["template"]["spec"]
        keys = next(each for each in pod["volumes"] if each["name"] == "keys")
        assert keys["secret"]["secretName"] == storage
        assert keys["secret"]["optional"]
        mount = {"name": "keys", "mountPath": "/home/ray/.aws", "readOnly": True}
        assert mount in pod["containers"][0]["volumeMounts"]


def test_only_the_clusters_own_pods_its_submitter_kuberay_and_prometheus_reach_it():
    policy = documents("networkpolicy.yaml")[0]["spec"]
    own = {"matchLabels": {"app.kubernetes.io/part-of": "raytrain"}}
    assert policy["podSelector"] == own
    assert policy["policyTypes"] == ["Ingress"]
    everything = [rule for rule in policy["ingress"] if "ports" not in rule]
    assert everything == [{"from": [{"podSelector": own}]}]
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["ingress"][1:]]
    assert ports == [[8265], [8080]]
    for name in ("raycluster.yaml", "rayjob.yaml"):
        for group in groups_of(spec_of(name)):
            assert group["template"]["metadata"]["labels"] == own["matchLabels"]


def test_kueue_queues_it_and_lets_it_grow():
    for name in ("raycluster.yaml", "rayjob.yaml"):
        metadata = documents(name)[0]["metadata"]
        assert metadata["labels"] == {"kueue.x-k8s.io/queue-name": "raytrain"}
        assert metadata["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}


def test_kubernetes_clusters_grow_and_shrink_to_nothing(spec):
    assert spec["enableInTreeAutoscaling"]
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    for group in spec["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]


def test_only_the_spot_group_goes_to_spot_nodes(spec):
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        spot = group.get("labels", {}).get("ray.io/market-type") == "spot"
        assert spot == (group["groupName"] == "gpu-spot")
        assert spot == any("spot" in str(each) for each in pod.get("tolerations", ()))
        assert spot == ("nodeSelector" in pod)
        gpus = pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        taints = [each["key"] for each in pod.get("tolerations", ())]
        assert bool(gpus) == ("nvidia.com/gpu" in taints)


def test_every_container_has_one_image_and_bounded_memory(spec):
    pods = [group["template"]["spec"] for group in groups_of(spec)]
    assert len({container["image"] for pod in pods for container in pod["containers"]}) == 1
    for pod in pods:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_ray_version_is_the_same_everywhere():
    pinned = re.search(
        r'"ray\[[^]]*\]==([\d.]+)"', (INFRA.parent / "pyproject.toml").read_text()
    ).group(1)
    assert {spec_of(name)["rayVersion"] for name in ("raycluster.yaml", "rayjob.yaml")} == {pinned}
    images = [INFRA / "Dockerfile", *(INFRA.parent / "cluster").glob("*.yaml")]
    for path in images:
        assert set(re.findall(r"rayproject/ray:([\d.]+)-", path.read_text())) <= {pinned}, path


def test_the_job_ends_its_cluster_and_runs_a_job_of_ours():
    job = yaml.safe_load((INFRA / "rayjob.yaml").read_text())["spec"]
    assert job["shutdownAfterJobFinishes"]
    module = re.match(r"python -m jobs\.(\w+) ", job["entrypoint"]).group(1)
    assert (INFRA.parent / "jobs" / f"{module}.py").is_file()


def instructions():
    """The Dockerfile's instructions, (name, arguments) each, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", (INFRA / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.split(None, 1) for line in text.replace("\\\n", " ").splitlines() if line]
    return [(name, arguments) for name, arguments in lines]


def test_the_image_holds_all_packages_pinned_and_no_token():
    found = instructions()
    assert {name for name, _ in found} <= {"ARG", "FROM", "USER", "RUN", "WORKDIR", "COPY", "ENV"}
    assert [name for name, _ in found[:2]] == ["ARG", "FROM"]
    copied = [arguments.split()[1:-1] for name, arguments in found if name == "COPY"]
    sources = [source for each in copied for source in each]
    assert {"pyproject.toml", "cluster", "raytrain", "tuning", "jobs"} <= set(sources)
    assert all((INFRA.parent / source).exists() for source in sources)
    assert [arguments for name, arguments in found if name == "USER"][-1] == "ray"
    installs = [arguments for name, arguments in found if "pip install" in arguments]
    assert len(installs) == 1, "only what pyproject.toml pins"
    assert re.search(r"pip install --no-cache-dir \.( |$)", installs[0])
    environment = " ".join(arguments for name, arguments in found if name in ("ENV", "ARG"))
    assert "RAY_AUTH_MODE=token" in environment
    assert not re.search(r"RAY_AUTH_TOKEN|SECRET|PASSWORD|_KEY", environment)


def test_every_dependency_of_the_image_is_pinned():
    project = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]
    assert all(re.search(r"==[\d.]+$", each) for each in project["dependencies"])


def test_prometheus_finds_our_heads():
    scrape = yaml.safe_load((INFRA / "prometheus.yml").read_text())["scrape_configs"][0]
    files = scrape["file_sd_configs"][0]["files"]
    assert "/tmp/rt-head-*/prom_metrics_service_discovery.json" in files


def test_the_dashboard_is_whole():
    dashboard = json.loads((INFRA / "grafana.json").read_text())
    panels = dashboard["panels"]
    assert (
        len({panel["id"] for panel in panels})
        == len({panel["title"] for panel in panels})
        == len(panels)
    )
    cells = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(cells)) == len(cells)
    for panel in panels:
        for target in panel["targets"]:
            assert re.search(r"\bray_[a-z_]+\{", target["expr"])


def test_a_real_head_writes_the_file_that_prometheus_reads(running_head):
    discovery = json.loads(
        (running_head.temp_dir / "prom_metrics_service_discovery.json").read_text()
    )
    assert discovery[0]["targets"]
