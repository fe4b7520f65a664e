"""Ray's own AWS code asks an imitation of EC2 for the machines of the shipped files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config

CLUSTERS = Path(__file__).parents[4] / "clusters"


@pytest.fixture
def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        for profile in ("fuseray-head", "fuseray-node"):
            boto3.client("iam", region_name="us-west-2").create_instance_profile(InstanceProfileName=profile)
        yield "us-west-2"


def launched(name: str, region: str) -> dict[str, Any]:
    """Return one instance of every node type, as EC2 describes it."""
    config = AWSNodeProvider.bootstrap_config(prepare_config(yaml.safe_load((CLUSTERS / name).read_text())))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for kind, node_type in config["available_node_types"].items():
        tags = {"ray-node-name": kind, "ray-node-type": "worker", "ray-user-node-type": kind, "ray-launch-config": "x"}
        provider.create_node(node_type["node_config"], tags | {"ray-node-status": "uninitialized"}, 1)
    found = boto3.client("ec2", region_name=region).describe_instances()["Reservations"]
    instances = [instance for reservation in found for instance in reservation["Instances"]]
    return {
        tag["Value"]: instance
        for instance in instances
        for tag in instance["Tags"]
        if tag["Key"] == "ray-user-node-type"
    }


def test_ray_asks_for_the_machines_of_the_file(region: str) -> None:
    requested = launched("aws-spot-h100.yaml", region)
    kinds = {name: (group["InstanceType"], group.get("InstanceLifecycle")) for name, group in requested.items()}
    assert kinds == {"head": ("m7i.2xlarge", None), "gpu": ("p5.48xlarge", "spot"), "cpu": ("c7i.8xlarge", None)}
    profiles = {name: group["IamInstanceProfile"]["Arn"].rpartition("/")[2] for name, group in requested.items()}
    assert profiles == {"head": "fuseray-head", "gpu": "fuseray-node", "cpu": "fuseray-node"}
    assert all(group["MetadataOptions"]["HttpTokens"] == "required" for group in requested.values())


def test_nothing_but_ssh_is_open_to_the_world(region: str) -> None:
    launched("aws-cpu-gpu.yaml", region)
    groups = boto3.client("ec2", region_name=region).describe_security_groups()["SecurityGroups"]
    (security_group,) = [group for group in groups if group["GroupName"].startswith("ray-autoscaler")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in security_group["IpPermissions"] if rule["IpRanges"]] == [
        (22, 22)
    ]
