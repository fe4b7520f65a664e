"""Writes a sweep's report: page and best recipe into its folder and MLflow, the best model into the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.storage.run_folder import RunError
from orchestrator.sweep.folder import SweepFolder
from orchestrator.sweep.report.axes import score_text
from orchestrator.sweep.report.page import PageInputs, render
from orchestrator.sweep.report.sweep_results import SweepResults, read_results
from orchestrator.sweep.results import Configuration, best_replica
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.payloads import RegisteredVersion, register_model
from orchestrator.track.run_writer import TrackedRun
from orchestrator.train.plan import recipe_yaml

T = TypeVar("T")

ALIAS = "best"
"""The registered model's alias for the version that the newest report chose."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """A report that was written.

    Args:
        report: where the page is.
        size_bytes: of the page.
        status: the sweep's.
        metrics: names of the objectives.
        best: the best configuration; None when none was trained to the end.
        recipe: where its recipe is; empty without one.
        trial: its best replica; empty without one.
        registered: that trial's model in MLflow's registry; None when it is not registered.
        unsent: what could not be sent to MLflow, and why, one sentence each.
    """

    report: str
    size_bytes: int
    status: str
    metrics: tuple[str, ...]
    best: Configuration | None
    recipe: str
    trial: str
    registered: RegisteredVersion | None
    unsent: tuple[str, ...]


def write_report(folder: SweepFolder) -> SweepReport:
    """Write the report of a sweep, also of one that is running. Idempotent: a model is registered only once.

    When MLflow is down, page and recipe are written all the same.

    Args:
        folder: the sweep's.

    Raises:
        SweepError: there is no such sweep, or a file of it is damaged.
        RecipeError: this version of Fuseray refuses its recipe.
        CostRecordError: a trial's cost file is damaged.
        StorageError: the folder cannot be written.
    """
    results = read_results(folder)
    best = results.best.first
    unsent: list[str] = []
    recipe = _write_recipe(folder, results, best)
    registered = None
    if best is not None:
        registered = _try_mlflow(lambda: _register(folder, results, best), "the best model", unsent)
        _try_mlflow(lambda: _send(results, recipe, "best.yaml"), "best.yaml", unsent)
    inputs = PageInputs(recipe, folder.best.uri, folder.spec.read().decode(), registered, tuple(unsent))
    page = render(results, inputs)
    folder.report.write(page.encode())
    _try_mlflow(lambda: _send(results, page, "report.html"), "report.html", unsent)
    return SweepReport(
        report=folder.report.uri,
        size_bytes=len(page.encode()),
        status=results.file.status,
        metrics=tuple(results.metrics),
        best=best,
        recipe=folder.best.uri if best else "",
        trial=best_replica(best, results.modes[0]).name if best else "",
        registered=registered,
        unsent=tuple(unsent),
    )


def _write_recipe(folder: SweepFolder, results: SweepResults, best: Configuration | None) -> str:
    """Write the best recipe; delete that of an earlier report when no configuration is the best any more."""
    if best is None:
        folder.best.delete()
        return ""
    recipe = best_recipe(results, best)
    folder.best.write(recipe.encode())
    return recipe


def _register(folder: SweepFolder, results: SweepResults, best: Configuration) -> RegisteredVersion:
    trial = best_replica(best, results.modes[0])
    run = folder.run(trial.run or trial.name)
    file = run.read()
    tags = {
        "sweep": results.sweep.sweep.name,
        "trial": trial.name,
        "configuration": str(trial.number),
        "samples": str(trial.points[-1].samples),
    }
    tags |= {f"objective/{m}": repr(v) for m, v in zip(results.metrics, trial.points[-1].values, strict=True)}
    tracked = TrackedRun(file.tracking_uri, file.mlflow_run_id)
    return register_model(tracked, run.model, results.sweep.sweep.name, tags, ALIAS)


def _send(results: SweepResults, content: str, name: str) -> None:
    TrackedRun(results.file.tracking_uri, results.file.mlflow_run_id).text(content, name)


def _try_mlflow(action: Callable[[], T], name: str, unsent: list[str]) -> T | None:
    """Run an action that needs MLflow; when it fails, add what MLflow lacks to `unsent`."""
    try:
        return action()
    except (TrackingError, RunError) as error:
        unsent.append(f"MLflow lacks {name}: {error}")
        return None


POPULATION = (
    "Its values changed during training (population based training); this recipe trains with the last ones from the "
    "start, so its result may differ."
)


def best_recipe(results: SweepResults, best: Configuration) -> str:
    """Return the recipe of a configuration as YAML, with the recipe's own seed, storage and tracking.

    Args:
        results: of the sweep.
        best: the configuration.

    Raises:
        RecipeError: this version of Fuseray refuses its values.
    """
    sweep = results.sweep
    recipe = sweep.recipe(best.assignment, {"name": f"{sweep.sweep.name}-best"})
    return "".join(f"# {' '.join(line.split())}\n" for line in _about(results, best)) + recipe_yaml(recipe)


def _about(results: SweepResults, best: Configuration) -> list[str]:
    objectives = ", ".join(
        f"{metric} {score_text(score)}" for metric, score in zip(results.metrics, best.scores, strict=True)
    )
    replicas = len(best.replicas)
    lines = [
        f"Configuration {best.number} of the sweep {results.sweep.sweep.name}, the best by {results.metrics[0]}.",
        f"It reached {objectives} after {best.samples:,} samples, "
        + (f"mean and standard deviation over {replicas} seeds." if replicas > 1 else "with one seed."),
        f"Searched were {', '.join(parameter.key for parameter in results.sweep.parameters)}.",
    ]
    lines += [POPULATION] if results.sweep.sweep.scheduler.kind == "pbt" else []
    lines += ["The sweep was still running when this was written."] if results.is_running else []
    return lines
