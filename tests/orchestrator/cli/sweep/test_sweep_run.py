"""What `fuseray sweep` refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from shards import write_shards

from orchestrator.cli.sweep.run import command
from orchestrator.config.errors import ConfigError
from orchestrator.config.sweep import load_sweep
from orchestrator.storage.location import locate
from orchestrator.sweep.folder import SweepFile, SweepFolder, store_sweep

RECIPE = """\
workload: albef
batch: {micro_batches: 2, micro_batch_size: 4}
length: {steps: 8}
scale: {workers: 1, cpus_per_worker: 0.25}
model: {preset: tiny}
"""
SWEEP = """\
recipe: mine.yaml
objectives: [{metric: loss, mode: min}]
space: {optimizer.learning_rate: "loguniform(1e-4, 1e-3)"}
search: {method: random, trials: 2}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a sweep's file, in which the sweep `old` was stopped."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(RECIPE + f"data: {{train: {write_shards('data', 16)}}}\n")
    Path("rates.yaml").write_text(SWEEP)
    folder = SweepFolder(locate("runs/old"))
    store_sweep(folder, load_sweep(Path("rates.yaml"), ["name=old"]))
    folder.write(
        SweepFile(
            name="old", created="2026-01-01T00:00:00+00:00", status="KILLED", tracking_uri="x", mlflow_run_id="1",
            trials=2, samples=64,
        )
    )  # fmt: skip
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def said(result: Result) -> str:
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


def test_the_verb_run_may_be_left_out(here: Path) -> None:
    assert said(run("none.yaml")) == said(run("run", "none.yaml")) != ""
    assert "Verbs:" in run().output


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (("--no-plan",), "name the sweep's file, or a sweep to continue"),
        (("rates.yaml", "--resume", "old"), "'rates.yaml': with --resume NAME no file is named"),
        (("--cluster", "there.yaml"), "with --cluster name the sweep's file"),
        (("rates.yaml", "--cluster", "there.yaml", "--resume", "old"), "with --cluster name the sweep's file"),
    ],
)
def test_what_is_meant_must_be_clear(here: Path, arguments: tuple[str, ...], usage: str) -> None:
    Path("there.yaml").write_text("cluster_name: there\nprovider: {type: this-machine}\n")
    result = run(*arguments)
    assert result.exit_code == 2
    assert usage in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume", "none"), "no sweep 'none' below runs"),
        (("--resume", "old", "replicas=2"), "a sweep that is continued stays as it is, except for budget.*"),
        (("--resume", "runs/old", "search.seed=7"), "changed: search.seed"),
        (("rates.yaml", "name=old"), "a sweep or a run of this name exists"),
        (("rates.yaml", "name=old", "--resume", "auto", "overrides.seed=3"), "changed: recipe.seed"),
        (("rates.yaml", "space.optimizer.learning_rat=uniform(0, 1)"), "did you mean 'learning_rate'"),
        (("rates.yaml", 'objectives=[{"metric": "los", "mode": "min"}]'), "did you mean 'loss'"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused(here: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in said(run(*arguments, "--dry-run"))
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["old"]


def test_a_figure_that_no_step_has_is_refused_without_a_plan_too(here: Path) -> None:
    assert "did you mean 'loss'" in said(
        run("rates.yaml", "--no-plan", 'objectives=[{"metric": "los", "mode": "min"}]')
    )
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["old"]


def test_a_dry_run_on_a_cluster_submits_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))
    Path("there.yaml").write_text("cluster_name: there\nprovider: {type: this-machine}\ncpus: 4\n")
    result = run("rates.yaml", "--cluster", "there.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "cluster       there (there.yaml)" in result.output
    assert not list((here / "state").rglob("jobs/*"))
