"""Reports written with a real MLflow: the page, the recipe, and the best model in the registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_sweeps import SWEEP
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from processes import free_ports
from safetensors.numpy import save_file

from orchestrator.cli.sweep.report import command
from orchestrator.config.loading import load_recipe
from orchestrator.storage.run_folder import RunFile
from orchestrator.sweep.folder import SweepFolder, stored_sweep
from orchestrator.sweep.report.sweep_results import read_results
from orchestrator.sweep.report.write import write_report

MakeSweep = Callable[..., SweepFolder]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    uri = new_database(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri)
    client.create_experiment("sweeps", artifact_location=str(tmp_path / "artifacts"))
    return client


@pytest.fixture
def new_run(client: MlflowClient) -> Callable[[], str]:
    experiment = client.get_experiment_by_name("sweeps")
    return lambda: str(client.create_run(experiment.experiment_id).info.run_id)


def give_runs(folder: SweepFolder, new_run: Callable[[], str], names: list[str]) -> dict[str, str]:
    """Write runs' files and exported models as trainings leave them; return the runs in MLflow by name."""
    uri, runs = folder.read().tracking_uri, {}
    for name in names:
        runs[name] = new_run()
        file = RunFile(name, "recipe", "index", uri, runs[name], 600, "2026-05-01T10:00:00+00:00", "FINISHED")
        folder.run(name).write(file)
        model = Path(folder.run(name).model.path)
        model.mkdir(parents=True)
        save_file({"weight": np.full((2, 3), len(runs), np.float32)}, model / "model.safetensors")
        (model / "config.json").write_text(json.dumps({"name": name}))
        (model / "tokenizer.json").write_text("{}")
    return runs


def test_a_report_is_in_the_folder_in_mlflow_and_in_the_registry(
    make_sweep: MakeSweep, client: MlflowClient, new_run: Callable[[], str]
) -> None:
    parent = new_run()
    folder = make_sweep(more="replicas: 2\n", mlflow_run_id=parent)
    best = read_results(folder).best.first
    assert best is not None
    runs = give_runs(folder, new_run, [one.name for one in best.replicas])
    found = write_report(folder)
    assert (found.unsent, found.best) == ((), best)
    values = {one.name: one.points[-1].values[0] for one in best.replicas}
    assert found.trial == min(values, key=lambda name: values[name])

    assert found.registered is not None
    assert (found.registered.name, found.registered.version, found.registered.new) == ("alpha-size", 1, True)
    version = client.get_model_version("alpha-size", "1")
    assert version.run_id == runs[found.trial]
    assert version.tags == {
        "sweep": "alpha-size",
        "trial": found.trial,
        "configuration": str(best.number),
        "samples": "9600",
        "objective/loss": repr(values[found.trial]),
    }
    fetched = Path(download_artifacts(artifact_uri="models:/alpha-size/1"))
    assert json.loads((fetched / "config.json").read_text()) == {"name": found.trial}
    assert {"model.safetensors", "tokenizer.json"} <= {file.name for file in fetched.iterdir()}

    for name, place in (("report.html", folder.report), ("best.yaml", folder.best)):
        sent = download_artifacts(run_id=parent, artifact_path=name)
        assert Path(sent).read_bytes() == place.read()
    assert b"models:/alpha-size/1" in folder.report.read()
    assert folder.report.uri == found.report


def test_reporting_again_registers_nothing_twice(
    make_sweep: MakeSweep, client: MlflowClient, new_run: Callable[[], str]
) -> None:
    folder = make_sweep(mlflow_run_id=new_run())
    best = read_results(folder).best.first
    assert best is not None
    give_runs(folder, new_run, [best.replicas[0].name])
    first, again = write_report(folder), write_report(folder)
    assert first.registered is not None
    assert again.registered is not None
    assert (first.registered.new, again.registered.new, again.registered.version) == (True, False, 1)
    assert len(client.search_model_versions("name = 'alpha-size'")) == 1


def test_the_model_is_that_of_the_run_that_took_over_a_checkpoint(
    make_sweep: MakeSweep, client: MlflowClient, new_run: Callable[[], str]
) -> None:
    taken = "trial-0002-0-from-0a1b2c3d"
    folder = make_sweep(more="scheduler: {kind: pbt}\n", mlflow_run_id=new_run(), ends={(2, 0): {"run": taken}})
    runs = give_runs(folder, new_run, [taken])
    assert write_report(folder).unsent == ()
    assert client.get_model_version("alpha-size", "1").run_id == runs[taken]


def test_the_best_recipe_is_a_recipe_with_the_recipes_own_seed(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = make_sweep(more="replicas: 2\n")
    found = write_report(folder)
    assert found.best is not None
    loaded = load_recipe(Path(found.recipe))
    expected = stored_sweep(folder).recipe(found.best.assignment, {"name": "alpha-size-best"})
    assert loaded.values() == expected.values()
    assert (loaded.recipe.name, loaded.recipe.seed, loaded.recipe.data.train) == ("alpha-size-best", 5, "shards")
    text = folder.best.read().decode()
    assert text.startswith(
        f"# Configuration {found.best.number} of the sweep alpha-size, the best by loss.\n# It reached"
    )
    assert "mean and standard deviation over 2 seeds" in text


def test_everything_is_written_when_mlflow_is_away(make_sweep: MakeSweep) -> None:
    folder = make_sweep(tracking_uri=f"http://127.0.0.1:{free_ports(1)[0]}")
    best = read_results(folder).best.first
    assert best is not None
    give_runs(folder, lambda: "run", [best.replicas[0].name])
    found = write_report(folder)
    assert found.registered is None
    assert [one.split(":")[0] for one in found.unsent] == [
        "MLflow lacks the best model",
        "MLflow lacks best.yaml",
        "MLflow lacks report.html",
    ]
    assert folder.best.exists()
    assert b"MLflow lacks the best model" in folder.report.read()


def test_a_sweep_without_a_best_leaves_no_recipe(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    write_report(folder)
    assert folder.best.exists()
    again = make_sweep(ends={(number, 0): {"status": "FAILED", "reports": 0} for number in range(12)})
    found = write_report(again)
    assert (found.best, found.recipe, found.trial, found.registered) == (None, "", "", None)
    assert not again.best.exists()


def test_the_verb_says_what_came_of_it(make_sweep: MakeSweep, new_run: Callable[[], str], tmp_path: Path) -> None:
    folder = make_sweep(mlflow_run_id=new_run())
    best = read_results(folder).best.first
    assert best is not None
    give_runs(folder, new_run, [best.replicas[0].name])
    said = CliRunner().invoke(command, ["alpha-size", "--storage", str(tmp_path / "runs")])
    assert said.exit_code == 0
    assert f"The best is configuration {best.number}: loss" in said.output
    assert f"fuseray train {folder.best.uri}" in said.output
    assert "Its model is models:/alpha-size/1 in MLflow's registry" in said.output
    printed = CliRunner().invoke(command, [folder.root.uri, "--json"])
    values = json.loads(printed.output)
    assert values["best"]["configuration"] == best.number
    assert values["best"]["objectives"]["loss"]["mean"] == best.scores[0].mean
    assert values["model"] == {"uri": "models:/alpha-size/1", "new": False}
    assert values["unsent"] == []


def test_the_verb_says_what_mlflow_lacks_and_how_to_repeat_it(make_sweep: MakeSweep, tmp_path: Path) -> None:
    make_sweep(text=SWEEP, trials=0, status="RUNNING")
    said = CliRunner().invoke(command, ["alpha-size", "--storage", str(tmp_path / "runs")])
    assert "The sweep still runs; report it again when it has ended." in said.output
    assert "so none is the best." in said.output
    assert "MLflow lacks report.html" in said.output
    assert "Do this again when MLflow answers; nothing is registered twice." in said.stderr


def test_a_sweep_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = CliRunner().invoke(command, ["nothing", "--storage", str(tmp_path)])
    assert said.exit_code != 0
    assert "no sweep 'nothing' below" in str(said.exception)
