"""Every fault of a launcher file is refused with its line, its key and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.files.read import read_cluster
from orchestrator.config.errors import ConfigError, RecipeError

CLUSTERS = Path(__file__).parents[4] / "clusters"
AWS, GCP = (CLUSTERS / "aws-spot-h100.yaml").read_text(), (CLUSTERS / "gcp.yaml").read_text()
ADD = "cluster_name: fuseray-h100\n"
TYPE = "      InstanceType: p5.48xlarge\n"
GPU_LABELS = "    labels: {fuseray.io/machine: p5.48xlarge, ray.io/market-type: spot}\n"
SPOT = "      InstanceMarketOptions:\n        MarketType: spot\n"
SPOT_OPTIONS = "        SpotOptions: {SpotInstanceType: one-time, InstanceInterruptionBehavior: terminate}\n"
HEAD_TYPE = "      InstanceType: m7i.2xlarge\n"
MOUNT = "  ~/.ray/auth_token: ~/.ray/auth_token  # the cluster's token; `fuseray up` makes it, with mode 0600\n"
MODE = "    RAY_AUTH_MODE=token; set +a; ulimit -n 65536 || true;\n    ray start --head"
REGION = "  region: us-west-2  # CHANGE: where your data is; traffic between regions costs\n"
OPEN = """\
  security_group:
    IpPermissions:
      - {FromPort: 8265, ToPort: 8265, IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}
"""

WRONG_AWS = {
    "unknown key": (
        ADD,
        ADD + "max_wrokers: 3\n",
        "max_wrokers",
        "max_wrokers: unknown key 'max_wrokers'; did you mean 'max_workers'?",
    ),
    "unknown key of a node type": (
        "    min_workers: 0\n    max_workers: 2\n",
        "    min_worker: 0\n    max_workers: 2\n",
        "min_worker:",
        "did you mean 'min_workers'?",
    ),
    "wrong type": (
        "max_workers: 6\n",
        "max_workers: six\n",
        "max_workers: six",
        "max_workers: must be of type integer (got 'six')",
    ),
    "negative": ("upscaling_speed: 2.0 ", "upscaling_speed: -2.0 ", "upscaling_speed", "must be at least 0"),
    "unknown provider": (
        "  type: aws\n",
        "  type: asw\n",
        "type: asw",
        "provider.type: Ray has no provider 'asw'; did you mean 'aws'?",
    ),
    "unknown provider key": (
        REGION,
        REGION + "  avaliability_zone: us-west-2a\n",
        "avaliability_zone",
        "did you mean 'availability_zone'?",
    ),
    "no region": (REGION, "", "provider:", "provider.region: this key is required"),
    "credentials": (
        REGION,
        REGION + "  aws_credentials: {aws_access_key_id: A, aws_secret_access_key: B}\n",
        "aws_credentials",
        "keep secrets out of files",
    ),
    "open security group": (
        REGION,
        REGION + OPEN,
        "FromPort: 8265",
        "opens more than SSH (port 22) to the whole internet",
    ),
    "unknown node_config key": (TYPE, TYPE + "      ImageID: ami-1\n", "ImageID", "did you mean 'ImageId'?"),
    "unknown key deep in node_config": (
        "{SpotInstanceType: one-time, InstanceInterruptionBehavior: terminate}",
        "{SpotType: one-time}",
        "SpotType",
        "InstanceMarketOptions.SpotOptions.SpotType: unknown key 'SpotType'; did you mean 'SpotInstanceType'?",
    ),
    "wrong type in node_config": (
        "{VolumeSize: 300,",
        "{VolumeSize: '300',",
        "VolumeSize: '300'",
        "BlockDeviceMappings.0.Ebs.VolumeSize: must be of type integer (got '300')",
    ),
    "unknown choice in node_config": (
        "        MarketType: spot\n",
        "        MarketType: Spot\n",
        "MarketType: Spot",
        "boto3 knows no 'Spot'; did you mean 'spot'?",
    ),
    "unknown instance type": (
        TYPE,
        "      InstanceType: p5.48xlrage\n",
        "p5.48xlrage",
        "boto3 knows no 'p5.48xlrage'; did you mean 'p5.48xlarge'?",
    ),
    "counts in node_config": (TYPE, TYPE + "      MinCount: 1\n", "MinCount", "Ray sets this itself"),
    "min over max": (
        "    min_workers: 0\n    max_workers: 2\n",
        "    min_workers: 3\n    max_workers: 2\n",
        "min_workers: 3",
        "is 3, more than max_workers (2)",
    ),
    "no total": ("max_workers: 6\n", "", "cluster_name:", "max_workers: this key is required"),
    "head type missing": (
        "head_node_type: head\n",
        "head_node_type: haed\n",
        "head_node_type",
        "available_node_types has no 'haed'; did you mean 'head'?",
    ),
    "no head type": (
        "head_node_type: head\n",
        "",
        "cluster_name:",
        "head_node_type: this key is required: one of head, gpu, cpu.",
    ),
    "spot head": (HEAD_TYPE, HEAD_TYPE + SPOT, "    node_config:", "the head must not be a spot machine"),
    "dashboard for all": (
        "--dashboard-host=127.0.0.1",
        "--dashboard-host 0.0.0.0",
        "  - >-",
        "must not listen on 0.0.0.0",
    ),
    "no autoscaler": (
        "    --autoscaling-config=~/ray_bootstrap_config.yaml\n",
        "",
        "  - >-",
        "or no worker is ever started",
    ),
    "no token mode": (
        MODE,
        MODE.replace("RAY_AUTH_MODE=token; ", ""),
        "  - >-",
        "put `export RAY_AUTH_MODE=token;` before `ray start`",
    ),
    "token mode taken back": (
        "    ray start --address",
        "    RAY_AUTH_MODE=disabled ray start --address",
        "  - >-",
        "put `export RAY_AUTH_MODE=token;` before `ray start`",
    ),
    "no token file": (MOUNT, "", "file_mounts:", "add `~/.ray/auth_token: ~/.ray/auth_token` under file_mounts"),
    "token in a command": (
        "    ray start --address",
        "    export RAY_AUTH_TOKEN=abc; ray start --address",
        "  - >-",
        "contains the token itself",
    ),
    "a command that YAML cuts off": (
        "  - test -x ~/fuseray/env/bin/python",
        "  - echo 'a  # b' >> ~/.bashrc\n  - test -x ~/fuseray/env/bin/python",
        "echo 'a  # b'",
        "setup_commands.1: ends inside a quote; YAML takes ` #` for a comment",
    ),
    "no label": (
        GPU_LABELS,
        "    labels: {ray.io/market-type: spot}\n",
        "labels: {ray.io",
        "add `fuseray.io/machine: p5.48xlarge`",
    ),
    "no labels": (GPU_LABELS, "", "  gpu:", "add `ray.io/market-type: spot`"),
    "wrong machine label": (
        GPU_LABELS,
        GPU_LABELS.replace("p5.", "p4."),
        "p4.48xlarge",
        "says p4.48xlarge, but the node_config asks for p5.48xlarge",
    ),
    "wrong market label": (
        SPOT + SPOT_OPTIONS,
        "",
        "p5.48xlarge, ray.io/market-type: spot",
        "says spot, but the node_config asks for on-demand",
    ),
    "more GPUs than there are": (
        "{CPU: 192, GPU: 8}",
        "{CPU: 192, GPU: 16}",
        "GPU: 16",
        "resources.GPU: is 16, but a p5.48xlarge has 8",
    ),
    "text that Ray reads as a truth": (
        "  cache_stopped_nodes: false ",
        "  cache_stopped_nodes: off ",
        "cache_stopped_nodes",
        "is read as False by Ray and Kubernetes",
    ),
}

WRONG_GCP = {
    "no project": (
        "  project_id: my-project  # CHANGE\n",
        "",
        "provider:",
        "provider.project_id: this key is required",
    ),
    "unknown node_config key": (
        "      machineType: a3-highgpu-8g\n",
        "      machineType: a3-highgpu-8g\n      schedulling: {}\n",
        "schedulling",
        "did you mean 'scheduling'?",
    ),
    "unknown scheduling key": (
        "        automaticRestart: false\n",
        "        autoRestart: false\n",
        "autoRestart",
        "did you mean 'automaticRestart'?",
    ),
    "unknown disk key": (
        "            diskSizeGb: 300\n",
        "            diskSizeGB: 300\n",
        "diskSizeGB",
        "did you mean 'diskSizeGb'?",
    ),
    "no machine type": (
        "      machineType: a3-highgpu-8g\n",
        "",
        "    node_config:",
        "machineType: this key is required",
    ),
    "no resources": (
        "    resources: {CPU: 208, GPU: 8}\n",
        "    resources: {}\n",
        "resources: {}",
        "set its CPUs",
    ),
    "no GPUs": ("{CPU: 208, GPU: 8}", "{CPU: 208}", "{CPU: 208}", "add `GPU: 8`"),
    "wrong market label": (
        "        provisioningModel: SPOT\n",
        "        provisioningModel: STANDARD\n",
        "ray.io/market-type: spot",
        "asks for on-demand",
    ),
}


def faults_of(path: Path, text: str) -> list[str]:
    path.write_text(text)
    try:
        read_cluster(path)
    except RecipeError as error:
        return [str(finding) for finding in error.findings]
    return []


def check(path: Path, base: str, old: str, new: str, mark: str, message: str) -> None:
    assert base.count(old) >= 1, f"the shipped file has no {old!r} any more"
    text = base.replace(old, new, 1)
    found = faults_of(path, text)
    fault = next((fault for fault in found if message in fault), None)
    assert fault is not None, found
    line = int(fault.removeprefix(f"{path}:").split(":")[0])
    assert mark in text.splitlines()[line - 1]


@pytest.mark.parametrize("name", WRONG_AWS)
def test_a_fault_of_an_aws_file_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    check(tmp_path / "aws.yaml", AWS, *WRONG_AWS[name])


@pytest.mark.parametrize("name", WRONG_GCP)
def test_a_fault_of_a_gcp_file_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    check(tmp_path / "gcp.yaml", GCP, *WRONG_GCP[name])


def test_all_faults_come_together_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = AWS.replace(MOUNT, "").replace(GPU_LABELS, "").replace("max_workers: 6", "max_wrokers: 6")
    found = faults_of(tmp_path / "aws.yaml", text)
    assert len(found) == 5
    lines = [int(fault.split(":")[1]) for fault in found]
    assert lines == sorted(lines)


def test_the_total_has_to_hold_what_is_always_there(tmp_path: Path) -> None:
    text = AWS.replace("max_workers: 6", "max_workers: 1").replace(
        "    min_workers: 0\n    max_workers: 2", "    min_workers: 2\n    max_workers: 2"
    )
    path = tmp_path / "aws.yaml"
    line = text.splitlines().index("max_workers: 1") + 1
    assert faults_of(path, text) == [
        f"{path}:{line}: max_workers: is 1, but the node types' min_workers add up to 2; raise it"
    ]


def test_an_external_provider_has_to_bring_what_ray_does_not_add(tmp_path: Path) -> None:
    text = AWS.replace("  type: aws\n", "  type: external\n  module: mine.Provider\n")
    found = faults_of(tmp_path / "external.yaml", text)
    assert len(found) == 1
    assert "this key is required by Ray" in found[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "must be a mapping"),
        ("cluster_name: x\n", "provider.type: this key is required"),
        ("cluster_name: x\ncluster_name: y\n", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "holds 2 documents, and none is a Kubernetes manifest"),
    ],
)
def test_what_is_no_cluster_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_cluster(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        read_cluster(tmp_path / "absent.yaml")
