"""Writes a sweep's report: page and best recipe into its folder and MLflow, the best model into the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.storage.run_folder import RunError
from orchestrator.sweep.folder import SweepFolder
from orchestrator.sweep.report.axes import score_text
from orchestrator.sweep.report.gather import Findings, gather
from orchestrator.sweep.report.page import Shared, render
from orchestrator.sweep.results import Configuration, best_replica
from orchestrator.track.client import TrackingError
from orchestrator.track.payloads import RegisteredVersion, register_model
from orchestrator.track.run_writer import TrackedRun
from orchestrator.train.plan import recipe_yaml

T = TypeVar("T")

ALIAS = "best"
"""The registered model's alias for the version that the newest report chose."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a report came to.

    Args:
        report: where the page is.
        size_bytes: of the page.
        status: the sweep's.
        metrics: names of the objectives.
        best: the best configuration; None when none was trained to the end.
        recipe: where its recipe is; empty without one.
        trial: its best replica; empty without one.
        registered: that trial's model in MLflow's registry; None when it is not there.
        unsent: what is not in MLflow, and why, one sentence each.
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
    """Write the report of a sweep, however far it is. Repeated, it registers no model twice.

    When MLflow is away, page and recipe are written all the same.

    Args:
        folder: the sweep's.

    Raises:
        SweepError: there is no such sweep, or a file of it is damaged.
        RecipeError: this version of Fuseray refuses its recipe.
        CostRecordError: the record of a trial's machines is damaged.
        StorageError: the folder cannot be written.
    """
    findings = gather(folder)
    best = findings.best.first
    unsent: list[str] = []
    recipe = _write_recipe(folder, findings, best)
    registered = None
    if best is not None:
        registered = _attempt(lambda: _register(folder, findings, best), "the best model", unsent)
        _attempt(lambda: _send(findings, recipe, "best.yaml"), "best.yaml", unsent)
    shared = Shared(recipe, folder.best.uri, folder.spec.read().decode(), registered, tuple(unsent))
    page = render(findings, shared)
    folder.report.write(page.encode())
    _attempt(lambda: _send(findings, page, "report.html"), "report.html", unsent)
    return SweepReport(
        report=folder.report.uri,
        size_bytes=len(page.encode()),
        status=findings.file.status,
        metrics=tuple(findings.metrics),
        best=best,
        recipe=folder.best.uri if best else "",
        trial=best_replica(best, findings.modes[0]).name if best else "",
        registered=registered,
        unsent=tuple(unsent),
    )


def _write_recipe(folder: SweepFolder, findings: Findings, best: Configuration | None) -> str:
    """Write the best recipe; one that an earlier report wrote goes when nothing is best any more."""
    if best is None:
        folder.best.delete()
        return ""
    recipe = best_recipe(findings, best)
    folder.best.write(recipe.encode())
    return recipe


def _register(folder: SweepFolder, findings: Findings, best: Configuration) -> RegisteredVersion:
    trial = best_replica(best, findings.modes[0])
    run = folder.run(trial.run or trial.name)
    file = run.read()
    tags = {
        "sweep": findings.sweep.sweep.name,
        "trial": trial.name,
        "configuration": str(trial.number),
        "samples": str(trial.points[-1].samples),
    }
    tags |= {f"objective/{m}": repr(v) for m, v in zip(findings.metrics, trial.points[-1].values, strict=True)}
    tracked = TrackedRun(file.tracking_uri, file.mlflow_run_id)
    return register_model(tracked, run.model, findings.sweep.sweep.name, tags, ALIAS)


def _send(findings: Findings, content: str, name: str) -> None:
    TrackedRun(findings.file.tracking_uri, findings.file.mlflow_run_id).text(content, name)


def _attempt(what: Callable[[], T], name: str, unsent: list[str]) -> T | None:
    """Do something with MLflow; note what is missing when it fails."""
    try:
        return what()
    except (TrackingError, RunError) as error:
        unsent.append(f"MLflow lacks {name}: {error}")
        return None


# The best configuration as a recipe that trains as it is.


POPULATION = (
    "Its values changed while it was trained (population based training); this recipe trains with the last ones from "
    "the start, which need not come to the same."
)


def best_recipe(findings: Findings, best: Configuration) -> str:
    """Return the recipe of a configuration as YAML, with the recipe's own seed, storage and tracking.

    Args:
        findings: of the sweep.
        best: the configuration.

    Raises:
        RecipeError: this version of Fuseray refuses its values.
    """
    sweep = findings.sweep
    recipe = sweep.recipe(best.assignment, {"name": f"{sweep.sweep.name}-best"})
    return "".join(f"# {' '.join(line.split())}\n" for line in _about(findings, best)) + recipe_yaml(recipe)


def _about(findings: Findings, best: Configuration) -> list[str]:
    reached = ", ".join(
        f"{metric} {score_text(score)}" for metric, score in zip(findings.metrics, best.scores, strict=True)
    )
    replicas = len(best.replicas)
    lines = [
        f"Configuration {best.number} of the sweep {findings.sweep.sweep.name}, the best by {findings.metrics[0]}.",
        f"It came to {reached} after {best.samples:,} samples, "
        + (f"mean and standard deviation over {replicas} seeds." if replicas > 1 else "with one seed."),
        f"Searched were {', '.join(one.key for one in findings.sweep.parameters)}.",
    ]
    lines += [POPULATION] if findings.sweep.sweep.scheduler.kind == "pbt" else []
    lines += ["The sweep was still running when this was written."] if findings.is_running else []
    return lines
