from __future__ import annotations

from orchestrator.cluster.doctor.python_env import check_project, installed_version, project_requirements
from orchestrator.cluster.findings import passed

REQUIREMENTS = [
    "ray[data,train]<2.61,>=2.60",
    "torch!=2.13.*,>=2.11; extra == 'train'",
    "mypy>=2.0; extra == 'dev'",
    "tomli>=2; python_version < '3.11'",
]


def test_all_is_well() -> None:
    versions = {"ray": "2.60.0", "torch": "2.14.1+cpu"}
    assert check_project(REQUIREMENTS, versions.get) == [
        passed("packages", "2 packages at versions that fuseray allows")
    ]


def test_missing_and_wrong_versions_are_each_named() -> None:
    ray, torch = check_project(REQUIREMENTS, {"torch": "2.13.0"}.get)
    assert (ray.name, ray.level) == ("package ray", "error")
    assert "not installed" in ray.found
    assert ">=2.60" in ray.found
    assert (torch.name, torch.level) == ("package torch", "error")
    assert "2.13.0 is installed" in torch.found
    assert "make install" in torch.fix


def test_project_that_is_not_installed() -> None:
    (finding,) = check_project(None, installed_version)
    assert finding.level == "error"
    assert "fuseray is not installed" in finding.found


def test_metadata_of_this_installation_is_read() -> None:
    assert any(line.startswith("ray[") for line in project_requirements() or [])
    assert installed_version("pytest")
    assert installed_version("no-such-package-anywhere") is None
