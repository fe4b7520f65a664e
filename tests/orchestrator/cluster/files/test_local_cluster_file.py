"""A cluster file for this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.files.read import gpus_of_this_machine, read_cluster
from orchestrator.config.errors import RecipeError

SMALLEST = "cluster_name: mine\nprovider: {type: this-machine}\n"


def test_the_smallest_file_is_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALLEST)
    cluster = read_cluster(path)
    assert (cluster.kind, cluster.name, cluster.file) == ("local", "mine", path)
    assert (cluster.head.market, cluster.head.cpus, cluster.head.machine) == ("owned", None, None)
    assert cluster.settings["dashboard_port"] == 8265


def test_what_is_said_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALLEST + "cpus: 4\ngpus: 2\nobject_store_mb: 500\ndashboard_port: 9000\n")
    cluster = read_cluster(path)
    assert (cluster.head.cpus, cluster.head.gpus) == (4, 2)
    assert (cluster.settings["object_store_mb"], cluster.settings["dashboard_port"]) == (500, 9000)


def test_the_drivers_gpus_are_counted(tmp_path: Path) -> None:
    assert gpus_of_this_machine(tmp_path / "absent") == 0
    for bus in ("0000:00:1e.0", "0000:00:1f.0"):
        (tmp_path / bus).mkdir()
    assert gpus_of_this_machine(tmp_path) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cpu: 4", "3: cpu: unknown key 'cpu'; did you mean 'cpus'?"),
        ("cpus: 0", "3: cpus: must be greater than or equal to 1 (got 0)"),
        ("cpus: four", "3: cpus: must be a valid integer (got 'four')"),
        ("dashboard_port: 80", "3: dashboard_port: must be greater than or equal to 1024 (got 80)"),
        ("object_store_mb: 10", "3: object_store_mb: must be greater than or equal to 80 (got 10)"),
    ],
)
def test_a_fault_is_named_with_its_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{SMALLEST}{line}\n")
    with pytest.raises(RecipeError) as caught:
        read_cluster(path)
    assert str(caught.value) == f"{path}:{message}"
