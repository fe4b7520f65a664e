"""The cluster files that come with Fuseray are right by our reading of them and by their own tools' checks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.cluster.files.read import read_cluster
from orchestrator.config.loading import load_recipe
from orchestrator.config.prices import PriceTable, read_prices

CLUSTERS = Path(__file__).parents[4] / "clusters"
LAUNCHER = ["aws-spot-h100.yaml", "aws-cpu-gpu.yaml", "gcp.yaml"]
KUBERAY = ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml", "kuberay/rayjob-kueue.yaml"]
GROUPS = {
    "local.yaml": [("this-machine", None, "owned", 1, 1)],
    "aws-spot-h100.yaml": [
        ("head", "m7i.2xlarge", "on-demand", 1, 1),
        ("gpu", "p5.48xlarge", "spot", 0, 2),
        ("cpu", "c7i.8xlarge", "on-demand", 0, 4),
    ],
    "aws-cpu-gpu.yaml": [
        ("head", "m7i.xlarge", "on-demand", 1, 1),
        ("gpu", "g6e.12xlarge", "on-demand", 0, 1),
        ("cpu", "c7i.4xlarge", "spot", 0, 3),
    ],
    "gcp.yaml": [
        ("head", "n2-standard-8", "on-demand", 1, 1),
        ("gpu", "a3-highgpu-8g", "spot", 0, 2),
        ("cpu", "n2-standard-32", "on-demand", 0, 4),
    ],
    "kuberay/raycluster.yaml": [
        ("head", "m7i.2xlarge", "on-demand", 1, 1),
        ("gpu", "p5.48xlarge", "spot", 0, 2),
        ("cpu", "c7i.8xlarge", "on-demand", 0, 4),
    ],
    "kuberay/rayjob.yaml": [
        ("head", "m7i.2xlarge", "on-demand", 1, 1),
        ("gpu", "p5.48xlarge", "spot", 0, 2),
        ("cpu", "c7i.8xlarge", "on-demand", 0, 4),
    ],
    "kuberay/rayjob-kueue.yaml": [
        ("head", "m7i.2xlarge", "on-demand", 1, 1),
        ("gpu", "p5.48xlarge", "spot", 2, 2),
        ("cpu", "c7i.8xlarge", "on-demand", 4, 4),
    ],
}
GPUS = {"aws-spot-h100.yaml": 8, "aws-cpu-gpu.yaml": 4, "gcp.yaml": 8, **dict.fromkeys(KUBERAY, 8)}


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PriceTable:
    monkeypatch.setenv("HOME", str(tmp_path))
    return read_prices()


@pytest.mark.parametrize("name", GROUPS)
def test_a_shipped_file_says_what_it_is_made_of(name: str, prices: PriceTable) -> None:
    cluster = read_cluster(CLUSTERS / name, prices)
    found = [(group.name, group.machine, group.market, group.fewest, group.most) for group in cluster.groups]
    assert found == GROUPS[name]
    assert cluster.head.name == GROUPS[name][0][0]
    if name in GPUS:
        assert [group.gpus for group in cluster.groups] == [0, GPUS[name], 0]
        assert cluster.head.cpus == 0


def test_no_shipped_file_is_forgotten() -> None:
    there = {str(path.relative_to(CLUSTERS)) for path in CLUSTERS.rglob("*.yaml")}
    assert there - {"onprem.yaml"} == GROUPS.keys()


def test_the_file_for_machines_of_ones_own_can_be_read(prices: PriceTable) -> None:
    path = CLUSTERS / "onprem.yaml"
    if not path.is_file():
        pytest.skip("this checkout has no clusters/onprem.yaml")
    cluster = read_cluster(path, prices)
    assert cluster.kind == "launcher"
    assert {group.market for group in cluster.groups} == {"owned"}


@pytest.mark.parametrize("name", [*LAUNCHER, *KUBERAY])
def test_what_every_machine_on_demand_costs_is_known(name: str, prices: PriceTable) -> None:
    groups = read_cluster(CLUSTERS / name, prices).groups
    assert all(group.machine in prices.machines for group in groups)
    assert all(prices.usd_per_hour(group.machine, "on-demand") for group in groups)


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_itself_takes_the_launcher_files(name: str) -> None:
    validate_config(prepare_config(yaml.safe_load((CLUSTERS / name).read_text())))


@pytest.mark.parametrize("name", [name for name in LAUNCHER if name.startswith("aws")])
def test_boto3_itself_would_send_what_the_aws_files_ask_for(name: str) -> None:
    model = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    shape = model.operation_model("RunInstances").input_shape
    for node_type in yaml.safe_load((CLUSTERS / name).read_text())["available_node_types"].values():
        report = ParamValidator().validate(node_type["node_config"] | {"MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", LAUNCHER)
def test_every_command_is_one_that_bash_can_parse(name: str) -> None:
    values = yaml.safe_load((CLUSTERS / name).read_text())
    commands = [command for key in values if key.endswith("_commands") for command in values[key]]
    assert len(commands) > 6
    for command in commands:
        ran = subprocess.run(["bash", "-n", "-c", f"({command})"], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_takes_every_pod_and_every_resource_of_its_own(name: str) -> None:
    documents = list(yaml.safe_load_all((CLUSTERS / name).read_text()))
    own = [document for document in documents if document["apiVersion"] in ("v1", "networking.k8s.io/v1")]
    pods = [pod for document in documents if document["apiVersion"] == "ray.io/v1" for pod in _pods(document["spec"])]
    assert len(own) >= 1
    assert len(pods) == 3
    for resource in [*own, *pods]:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def _pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = spec.get("rayClusterSpec", spec)
    templates = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {}} | template for template in templates]


@pytest.mark.parametrize("name", ["kuberay/rayjob.yaml", "kuberay/rayjob-kueue.yaml"])
def test_the_recipe_inside_a_job_is_a_recipe(name: str, tmp_path: Path) -> None:
    documents = yaml.safe_load_all((CLUSTERS / name).read_text())
    (text,) = [document["data"]["recipe.yaml"] for document in documents if document["kind"] == "ConfigMap"]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    recipe = load_recipe(path).recipe
    assert recipe.scale.address == "auto"
    assert recipe.scale.use_gpu
