"""The files of `infra/` parse, and keep the promises that a reader relies on."""

import json
import re
from pathlib import Path

import pytest
import yaml

import cluster

INFRA = Path(cluster.__file__).parent.parent / "infra"


def spec_of(name):
    spec = yaml.safe_load((INFRA / name).read_text())["spec"]
    return spec.get("rayClusterSpec", spec)


@pytest.fixture(params=["raycluster.yaml", "rayjob.yaml"])
def spec(request):
    return spec_of(request.param)


def test_kubernetes_clusters_ask_for_the_token(spec):
    assert spec["authOptions"] == {"mode": "token"}


def test_kubernetes_clusters_grow_and_shrink_to_nothing(spec):
    assert spec["enableInTreeAutoscaling"]
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 < group["maxReplicas"]


def test_every_container_has_one_image_and_bounded_memory(spec):
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    containers = [
        container for group in groups for container in group["template"]["spec"]["containers"]
    ]
    assert len({container["image"] for container in containers}) == 1
    for container in containers:
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounts = {mount["name"] for mount in container.get("volumeMounts", ())}
        volumes = {
            volume["name"]
            for group in groups
            for volume in group["template"]["spec"].get("volumes", ())
        }
        assert mounts <= volumes


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


def test_the_image_holds_all_packages_and_no_token():
    text = (INFRA / "Dockerfile").read_text()
    for package in ("cluster", "raytrain", "tuning", "jobs"):
        assert f" {package} {package}\n" in text
    assert "RAY_AUTH_TOKEN" not in text
    assert "RAY_AUTH_MODE=token" in text


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
