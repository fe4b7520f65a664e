"""Run folders without a training, for verbs that read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mlflow_database import new_database

from orchestrator.config.loading import load_recipe
from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.ledger import Ledger
from orchestrator.stream.micro_batch import MicroBatch, SkippedSample
from orchestrator.track.run_writer import TrackedRun
from orchestrator.track.tracker import Tracker
from orchestrator.train.plan import Plan, make_plan, recipe_yaml

RECIPE = """\
workload: albef
name: mine
batch: {micro_batches: 2, micro_batch_size: 8}
length: {epochs: 3}
scale: {cpus_per_worker: 0.5, workers: 2}
model: {preset: tiny}
"""


def write_run(folder: Path, *overrides: str, curves: Mapping[str, Sequence[float]] | None = None) -> Plan:
    """Write the folder of a run below `folder`/runs and its curves to MLflow; return its plan."""
    path = folder / "mine.yaml"
    path.write_text(RECIPE)
    tracking = new_database(folder / "runs" / "mlflow.db")
    plan = make_plan(load_recipe(path, [f"storage.uri={folder}/runs", f"tracking.uri={tracking}", *overrides]))
    tracker = Tracker.start(tracking, "tests", "mine", {}, log=print)
    tracker.finish("KILLED", ended_ms=1)
    tracked = TrackedRun(tracking, tracker.run_id)
    for name, values in (curves or {}).items():
        for step, value in enumerate(values):
            tracked.add(step, {name: value})
    digests = plan.resolved.digest(), plan.data.digest
    plan.run.recipe.write(recipe_yaml(plan.resolved).encode())
    plan.run.write(RunFile("mine", *digests, tracking, tracker.run_id, plan.steps, "2026-01-01", "KILLED"))
    return plan


def write_quarantine(plan: Plan, *skipped: SkippedSample) -> None:
    """Write a run's list of skipped samples."""
    plan.run.quarantine.write("".join(f"{json.dumps(asdict(skip))}\n" for skip in skipped).encode())


def write_ledger(plan: Plan, step: int, batches: Sequence[MicroBatch]) -> None:
    """Write a file of a run's ledger with one step."""
    ledger = Ledger(plan.run.ledger, worker=0)
    ledger.add(step, batches)
    ledger.flush()
