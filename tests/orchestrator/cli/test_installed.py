"""A Fuseray installed from its wheel does from an empty folder what the README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from orchestrator.cli.shards.build import build_command

REPOSITORY = Path(__file__).parents[3]
UV = Path(sys.prefix) / "bin" / "uv"
Fuseray = Callable[..., subprocess.CompletedProcess[str]]


def run(*command: str | Path, folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables = {"UV_CACHE_DIR": str(Path(sys.prefix) / ".cache" / "uv"), **variables, "UV_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment with the wheel, and with the packages of this one beside it."""
    if not UV.is_file():
        pytest.skip("this environment has no uv to build with; `make install` puts it there")
    folder = tmp_path_factory.mktemp("installed")
    run(UV, "build", "--wheel", "--out-dir", folder, REPOSITORY, folder=folder)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    run(UV, "venv", "--python", sys.executable, environment, folder=folder)
    run(UV, "pip", "install", "--no-deps", "--python", environment / "bin" / "python", wheel, folder=folder)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin" / "fuseray"


@pytest.fixture
def fuseray(program: Path, tmp_path: Path) -> Fuseray:
    def call(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(program, *words, folder=tmp_path, check=check)

    return call


def test_recipes_and_clusters_are_listed_and_copied(fuseray: Fuseray, tmp_path: Path) -> None:
    recipes, clusters = (json.loads(fuseray(verb, "--json").stdout) for verb in ("recipes", "clusters"))
    checkout = REPOSITORY / "workloads" / "recipes"
    assert len(recipes["recipe"] | recipes["sweep"]) == len(list(checkout.rglob("*.yaml")))
    names = [path.relative_to(REPOSITORY / "clusters") for path in (REPOSITORY / "clusters").rglob("*.yaml")]
    assert sorted(clusters["cluster"]) == sorted(str(name.with_suffix("")) for name in names)
    assert not any(
        path.startswith(str(REPOSITORY)) for path in (*recipes["recipe"].values(), *clusters["cluster"].values())
    )
    fuseray("clusters", "aws-spot-h100", "clusters")
    copy = tmp_path / "clusters" / "aws-spot-h100.yaml"
    assert copy.read_text() == (REPOSITORY / "clusters" / "aws-spot-h100.yaml").read_text()


def test_plan_and_sweep_find_what_they_are_told_by_name(fuseray: Fuseray) -> None:
    plan = fuseray("plan", "albef-4m", "--cluster", "aws-spot-h100", "no.such=1", check=False).stderr
    assert "recipe albef-4m: " in plan
    assert "cluster aws-spot-h100: " in plan
    assert plan.count("which comes with Fuseray") == 2
    assert "unknown key 'no'" in plan
    sweep = fuseray("sweep", "emoji-alpha", "overrides.no.such=1", check=False).stderr
    assert "sweeps/emoji-alpha.yaml, which comes with Fuseray" in sweep
    assert "unknown key 'no'" in sweep


def test_the_demo_is_planned_without_the_checkout(fuseray: Fuseray, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    entries = [{"image": f"{number}.png", "caption": f"drawing {number}"} for number in range(64)]
    for entry in entries:
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / entry["image"])
    listed = tmp_path / "pictures" / "list.json"
    listed.write_text(json.dumps(entries))
    for split in ("train", "held-out"):
        CliRunner().invoke(build_command, [str(listed), str(tmp_path / "data" / "emoji" / split)])
    shown = json.loads(fuseray("train", "emoji-demo", "--dry-run", "--json").stdout)
    assert shown["recipe"]["model"]["preset"] == "tiny"
    assert shown["plan"]["run_folder"] == str(tmp_path / "runs" / "emoji-demo")
