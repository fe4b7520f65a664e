"""Machines of one's own: a launcher file with provider local."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.files.read import read_cluster
from orchestrator.config.cluster import NodeGroup
from orchestrator.config.errors import RecipeError

SAMPLE = """\
cluster_name: cellar
provider:
  type: local
  head_ip: 10.0.0.1
  worker_ips: [10.0.0.2, 10.0.0.3]
auth:
  ssh_user: me
file_mounts:
  ~/.ray/auth_token: ~/.ray/auth_token
head_start_ray_commands:
  - export RAY_AUTH_MODE=token; ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml --num-cpus=4
worker_start_ray_commands:
  - >-
    export RAY_AUTH_MODE=token;
    ray start --address=$RAY_HEAD_IP:6379 --num-gpus 2 --labels="fuseray.io/machine=p3.8xlarge"
"""


def read(folder: Path, text: str) -> tuple[NodeGroup, ...]:
    path = folder / "cellar.yaml"
    path.write_text(text)
    return read_cluster(path).groups


def test_what_the_start_commands_say_is_believed(tmp_path: Path) -> None:
    head, workers = read(tmp_path, SAMPLE)
    assert (head.fewest, head.most, head.cpus, head.gpus, head.head) == (1, 1, 4, 0, True)
    assert (workers.fewest, workers.most, workers.cpus, workers.gpus) == (2, 2, 32, 2)
    assert (workers.machine, workers.market) == ("p3.8xlarge", "owned")


def test_fewer_may_be_kept(tmp_path: Path) -> None:
    _, workers = read(tmp_path, SAMPLE + "min_workers: 0\nmax_workers: 1\n")
    assert (workers.fewest, workers.most) == (0, 1)


def test_a_head_alone_is_a_cluster(tmp_path: Path) -> None:
    (head,) = read(tmp_path, SAMPLE.replace("[10.0.0.2, 10.0.0.3]", "[]"))
    assert head.head


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  head_ip: 10.0.0.1\n", "", "cellar.yaml:2: provider.head_ip: this key is required"),
        ("  worker_ips: [10.0.0.2, 10.0.0.3]\n", "", "cellar.yaml:2: provider.worker_ips: this key is required"),
        (
            "[10.0.0.2, 10.0.0.3]",
            "[10.0.0.2, 10.0.0.1]",
            "cellar.yaml:5: provider.worker_ips.1: 10.0.0.1 is listed twice",
        ),
        (
            "  worker_ips:",
            "  worker_ip: []\n  worker_ips:",
            "cellar.yaml:5: provider.worker_ip: unknown key 'worker_ip'",
        ),
        ("auth:\n", "available_node_types: {}\nauth:\n", "cellar.yaml:6: available_node_types: your own machines"),
        (
            "  ssh_user:",
            "  shh_user:",
            "cellar.yaml:7: auth.shh_user: unknown key 'shh_user'; did you mean 'ssh_user'?",
        ),
        ("head_start_ray_commands:\n", "head_start_ray_command:\n", "did you mean 'head_start_ray_commands'?"),
    ],
)
def test_a_fault_is_named_with_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cellar.yaml"
    path.write_text(SAMPLE.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        read_cluster(path)
    assert any(message in str(finding) for finding in caught.value.findings), str(caught.value)


def test_the_token_has_to_be_where_ray_and_jobs_look_for_it(tmp_path: Path) -> None:
    path = tmp_path / "cellar.yaml"
    path.write_text(SAMPLE.replace("~/.ray/auth_token: ~", "/home/me/.ray/auth_token: ~"))
    assert read_cluster(path).name == "cellar"
    path.write_text(SAMPLE.replace("~/.ray/auth_token: ~", "/etc/ray/token: ~"))
    with pytest.raises(RecipeError, match="no machine gets the cluster's token"):
        read_cluster(path)


@pytest.mark.parametrize(
    ("setting", "taken"),
    [
        ("export RAY_AUTH_MODE=token;", True),
        ("export RAY_AUTH_MODE='token' OTHER=1 &&", True),
        ("set -a; RAY_AUTH_MODE=token; set +a;", True),
        ("RAY_AUTH_MODE=token OTHER=1", True),
        ("RAY_AUTH_MODE=token;", False),
        ("export RAY_AUTH_MODE=disabled;", False),
        ("export RAY_AUTH_MODE=token; RAY_AUTH_MODE=", False),
        ("export OTHER=1;", False),
    ],
)
def test_the_token_mode_has_to_reach_ray(setting: str, taken: bool, tmp_path: Path) -> None:
    path = tmp_path / "cellar.yaml"
    path.write_text(SAMPLE.replace("export RAY_AUTH_MODE=token;", setting))
    if taken:
        assert read_cluster(path).name == "cellar"
        return
    with pytest.raises(RecipeError) as caught:
        read_cluster(path)
    assert [str(one).count("before `ray start` in the same command") for one in caught.value.findings] == [1, 1]
