"""Sweeps' folders as a driver leaves them, with figures of a known surface in the place of trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_database import new_database

from orchestrator.config.sweep import load_sweep
from orchestrator.storage.location import locate
from orchestrator.sweep.folder import Point, SweepFile, SweepFolder, TrialRecord, store_sweep, stored_sweep
from orchestrator.sweep.rungs import rungs
from orchestrator.sweep.sampler import draw_random
from orchestrator.track.cost import MachineKind, StartUsage, UsagePeriod, write_start
from workloads.contract import KeyedRandom

SAMPLES = 9600
REPORTS = 20
BEGAN_MS = 1_700_000_000_000
ENDED_MS = BEGAN_MS + 9_000_000
RECIPE = """\
workload: albef
seed: 5
data: {train: shards}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 600}
model: {preset: tiny}
"""
SWEEP = """\
recipe: mine.yaml
space:
  distillation.alpha: uniform(0, 0.8)
  optimizer.learning_rate: loguniform(1e-5, 1e-2)
  adversarial.steps: [0, 2, 3]
  adversarial.step_size: {draw: "loguniform(1e-4, 1e-1)", when: adversarial.steps > 0}
objectives: [{metric: loss, mode: min}]
search: {method: random, trials: 12}
"""

KIND = MachineKind("p5.48xlarge", "spot", 20.0)

Trial = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How a sweep's trials went.

    Args:
        text: of the sweep.
        more: further lines of it.
        status: of the sweep.
        trials: configurations that have started; None for all.
        ends: what became of some trials, by number and replica: fields of their records.
        tracking_uri: of MLflow; a new database beside the sweep when empty.
        mlflow_run_id: of the sweep's run.
    """

    text: str = SWEEP
    more: str = ""
    status: str = "FINISHED"
    trials: int | None = None
    ends: Mapping[tuple[int, int], Trial] = field(default_factory=dict)
    tracking_uri: str = ""
    mlflow_run_id: str = "sweep"


def build_sweep(place: Path, made: Made) -> SweepFolder:
    """Write a sweep's folder below a place."""
    (place / "mine.yaml").write_text(RECIPE)
    (place / "alpha-size.yaml").write_text(made.text + made.more)
    sweep = load_sweep(place / "alpha-size.yaml")
    folder = SweepFolder(locate(str(place / "runs" / sweep.sweep.name)))
    store_sweep(folder, sweep)
    configurations, replicas = sweep.sweep.search.trials or 1, sweep.sweep.replicas
    folder.write(
        SweepFile(
            name=sweep.sweep.name,
            created="2026-05-01T10:00:00+00:00",
            ended="" if made.status == "RUNNING" else "2026-05-01T12:30:00+00:00",
            status=made.status,
            tracking_uri=made.tracking_uri or new_database(place / "mlflow.db"),
            mlflow_run_id=made.mlflow_run_id,
            trials=configurations * replicas,
            samples=SAMPLES,
        )
    )
    write_start(folder.costs, StartUsage(BEGAN_MS, ENDED_MS, 1.0, (UsagePeriod(BEGAN_MS, ENDED_MS, {KIND: 2}),)))
    started = configurations if made.trials is None else made.trials
    for number in range(started):
        assignment = draw_random(sweep, number)
        for replica in range(replicas):
            record = trial(number, replica, assignment, len(sweep.sweep.objectives))
            folder.write_trial(changed(record, made.ends.get((number, replica), {})))
            write_start(folder.run(record.run).costs, start(number))
    return folder


def trial(number: int, replica: int, assignment: Mapping[str, Any], objectives: int) -> TrialRecord:
    return TrialRecord(
        number=number,
        replica=replica,
        assignment=assignment,
        status="FINISHED",
        points=curve(assignment, replica, objectives),
        started="2026-05-01T10:00:00+00:00",
        ended="2026-05-01T10:20:00+00:00",
        run=f"trial-{number:04d}-{replica}",
    )


def changed(record: TrialRecord, how: Trial) -> TrialRecord:
    """Return a record with another end; `reports` cuts what it reported."""
    values = {name: getattr(record, name) for name in TrialRecord.__dataclass_fields__} | dict(how)
    reports = values.pop("reports", None)
    if reports is not None:
        values["points"] = record.points[:reports]
    return TrialRecord(**values)


def stopped(reports: int) -> Trial:
    """Return the end of a trial that was stopped after some reports."""
    return {"status": "STOPPED", "reports": reports, "reason": "stopped early by the scheduler"}


def curve(assignment: Mapping[str, Any], replica: int, objectives: int) -> tuple[Point, ...]:
    """Return the reports of a training that falls towards `final`, the same for the same replica."""
    noise = KeyedRandom((repr(sorted(assignment.items())), replica)).numpy()
    end = final(assignment) + 0.03 * noise.normal()
    points = []
    for report in range(1, REPORTS + 1):
        share = report / REPORTS
        value = end + 2.5 * math.exp(-5 * share) + (0.02 * noise.normal() if share < 1 else 0)
        values = (value, 40 * assignment["distillation.alpha"] + 10, 1.0)[:objectives]
        points.append(Point(SAMPLES * report // REPORTS, tuple(values)))
    return tuple(points)


def final(assignment: Mapping[str, Any]) -> float:
    """Return the end of a training: best at alpha 0.4, learning rate 1e-3 and, with ascents, step size 1e-2."""
    value = 2 + 4 * (assignment["distillation.alpha"] - 0.4) ** 2
    value += 0.25 * (math.log10(assignment["optimizer.learning_rate"]) + 3) ** 2
    if "adversarial.step_size" in assignment:
        value += 0.08 * (math.log10(assignment["adversarial.step_size"]) + 2) ** 2 - 0.1
    return value


def start(number: int) -> StartUsage:
    begin = BEGAN_MS + number
    return StartUsage(begin, begin + 1_800_000, 0.5, (UsagePeriod(begin, begin + 1_800_000, {KIND: 2}),))


def halved(place: Path, text: str, more: str) -> dict[tuple[int, int], Trial]:
    """Return the ends that successive halving makes of a sweep's trials that all started together."""
    sweep = stored_sweep(build_sweep(place, Made(text=text, more=more, trials=0)))
    ends: dict[tuple[int, int], Trial] = {}
    living = list(range(sweep.sweep.search.trials or 0))
    for rung in rungs(sweep.sweep.scheduler, SAMPLES):
        reports = math.ceil(rung * REPORTS / SAMPLES)
        ordered = sorted(living, key=lambda number: curve(draw_random(sweep, number), 0, 1)[reports - 1].values[0])
        living = ordered[: max(1, len(ordered) // sweep.sweep.scheduler.reduction)]
        ends |= {(number, 0): stopped(reports) for number in ordered[len(living) :]}
    return ends
