"""Collects what a report says about a run from storage and MLflow; stores and reads evaluations as files."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from orchestrator.config.commands import RECIPE, mlflow_command
from orchestrator.report.model import (
    Checkpoint,
    Curve,
    EvaluatedCheckpoint,
    Headline,
    Report,
    Run,
    Status,
)
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunFile, RunFolder, checkpoint_step
from orchestrator.stream.micro_batch import read_quarantine
from orchestrator.stream.unusable import ReasonCount, UnusableSample, count_reasons, count_unusable, read_unusable
from orchestrator.track.client import resolve_uri
from orchestrator.track.cost import Costs, RunCost, read_starts
from orchestrator.track.mlflow_errors import redact
from orchestrator.track.run_writer import Curves, TrackedRun
from workloads.contract import (
    Evaluation,
    EvaluationOptions,
    Gallery,
    GalleryRow,
    Picture,
    ReportedMetrics,
    Table,
    TableRow,
)

TIME_PARTS = {
    "startup": "start-up",
    "data_wait": "data wait",
    "forward_backward": "forward and backward",
    "gradient_sync": "gradient sync",
    "optimizer": "optimiser",
    "step_hooks": "",
    "checkpoint": "checkpoints",
    "evaluation": "evaluation",
}
"""Part of a step, as its seconds are logged, and what the page calls it; the workload names its own hooks."""


def gather(run: RunFolder, metrics: ReportedMetrics) -> Report:
    """Return the report of a run.

    Args:
        run: the run.
        metrics: what its workload reports.

    Raises:
        RunError: there is no such run.
        CostRecordError: the record of its machines is damaged.
        TrackingError: MLflow cannot be reached.
    """
    file = run.read()
    tracker = TrackedRun(file.tracking_uri, file.mlflow_run_id)
    curves = tracker.curves()
    saved = load_evaluation(run.evaluation)
    return Report(
        run=_run(run, file, tracker),
        headline=_headline(curves, tracker, file.steps, Costs(read_starts(run.costs)).spent()),
        curves={name: Curve(tuple(steps), tuple(values)) for name, (steps, values) in curves.items()},
        time={
            title or metrics.step_hooks: sum(curves.get(f"seconds/{part}", ([], []))[1])
            for part, title in TIME_PARTS.items()
        },
        metrics=metrics,
        evaluated=saved.checkpoint if saved else None,
        skipped=_skipped(run.quarantine),
        held_out_unusable=count_unusable(read_unusable(run.held_out_quarantine)),
        recipe_yaml=run.recipe.read().decode(),
        machine=_machine(),
    )


def _run(run: RunFolder, file: RunFile, tracker: TrackedRun) -> Run:
    started, ended = tracker.times_ms()
    address = resolve_uri(file.tracking_uri)
    oldest_first = reversed(run.committed_checkpoints())
    return Run(
        name=file.name,
        status=Status(file.status),
        created=_time(started),
        finished=_time(ended) if ended else "",
        folder=run.root.uri,
        endpoint=run.root.endpoint,
        recipe=run.recipe.uri if run.recipe.is_local else RECIPE,
        checkpoints=tuple(
            Checkpoint(step=checkpoint_step(folder), location=folder.uri, size_bytes=sum(folder.sizes().values()))
            for folder in oldest_first
        ),
        mlflow_run_id=file.mlflow_run_id,
        mlflow_command=mlflow_command(redact(address, address)),
    )


def _headline(curves: Curves, tracker: TrackedRun, planned_steps: int, spent: RunCost) -> Headline:
    steps, rates = curves.get("samples_per_s", ([], []))
    started, ended = tracker.times_ms()
    settled = rates[len(rates) // 10 :]
    return Headline(
        steps=max(steps) + 1 if steps else None,
        planned_steps=planned_steps,
        samples=int(sum(curves["samples"][1])) if "samples" in curves else None,
        samples_per_s=sorted(settled)[len(settled) // 2] if settled else None,
        wall_time_s=(ended - started) / 1000 if ended else None,
        usd=spent.usd if spent.node_seconds else None,
        node_hours=spent.node_hours if spent.node_seconds else None,
        unpriced_node_hours=spent.unpriced_node_hours,
    )


def _skipped(quarantine: Location) -> tuple[ReasonCount, ...]:
    return count_reasons((skip.reason, skip.key) for skip in read_quarantine(quarantine))


def _machine() -> dict[str, str]:
    facts = {"Python": platform.python_version(), "System": f"{platform.system()} {platform.machine()}"}
    for package in ("fuseray", "ray", "torch", "timm", "transformers", "mlflow"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


FILE = "evaluation.json"
FILES = "files"
"""Folder in the evaluation's with the workload's own result files."""


@dataclass(frozen=True, slots=True)
class SavedEvaluation:
    """An evaluation read back, and what was evaluated: step, options, data."""

    checkpoint: EvaluatedCheckpoint
    subject: dict[str, Any]


def subject(step: int, options: EvaluationOptions, held_out: str) -> dict[str, Any]:
    """Return what determines an evaluation, to know whether it is up to date."""
    return {"step": step, "held_out": held_out} | options.model_dump(mode="json")


def evaluated_checkpoint(
    evaluation: Evaluation, images: Mapping[int, bytes], unusable: Sequence[UnusableSample], total: int
) -> EvaluatedCheckpoint:
    """Return what is kept of an evaluation.

    Args:
        evaluation: metrics, tables and galleries.
        images: encoded image files by the rows that the galleries name.
        unusable: the held-out samples that could not be used.
        total: held-out samples that were looked at.
    """
    return EvaluatedCheckpoint(evaluation, images, count_unusable(unusable), total)


def save_evaluation(folder: Location, checkpoint: EvaluatedCheckpoint, about: dict[str, Any]) -> None:
    """Write an evaluation; the JSON comes last, so that a half-written one does not count."""
    for row, image in checkpoint.images.items():
        (folder / f"image-{row:06d}").write(image)
    evaluation = checkpoint.evaluation
    for name, file in evaluation.files.items():
        (folder / FILES / name).write(file)
    content = {
        "subject": about,
        "unusable": [asdict(count) for count in checkpoint.unusable],
        "samples": checkpoint.samples,
        "metrics": dict(evaluation.metrics),
        "tables": [asdict(table) for table in evaluation.tables],
        "galleries": [_gallery_values(gallery) for gallery in evaluation.galleries],
        "files": sorted(evaluation.files),
    }
    (folder / FILE).write(json.dumps(content).encode())


def load_evaluation(folder: Location) -> SavedEvaluation | None:
    """Return the saved evaluation, or None when there is none that this version wrote."""
    if (folder / FILE).size() is None:
        return None
    content = json.loads((folder / FILE).read())
    if "galleries" not in content:
        return None
    tables = tuple(_table(values) for values in content["tables"])
    galleries = tuple(_gallery(values) for values in content["galleries"])
    images = {row: (folder / f"image-{row:06d}").read() for row in sorted(_rows(galleries))}
    files = {name: (folder / FILES / name).read() for name in content.get("files", ())}
    evaluation = Evaluation(content["metrics"], tables, galleries, files)
    unusable = tuple(_reason_count(values) for values in content.get("unusable", ()))
    return SavedEvaluation(
        EvaluatedCheckpoint(evaluation, images, unusable, content.get("samples")), content["subject"]
    )


def _reason_count(values: Mapping[str, Any]) -> ReasonCount:
    return ReasonCount(values["reason"], values["count"], tuple(values["keys"]))


def _rows(galleries: Sequence[Gallery]) -> set[int]:
    return {picture.index for gallery in galleries for row in gallery.rows for picture in row.pictures}


def _gallery_values(gallery: Gallery) -> dict[str, Any]:
    rows = [
        {"text": row.text, "pictures": [_picture_values(picture) for picture in row.pictures]} for row in gallery.rows
    ]
    return {"title": gallery.title, "text": gallery.text, "rows": rows}


def _picture_values(picture: Picture) -> dict[str, Any]:
    map_HW = None if picture.map_HW is None else np.round(picture.map_HW, 4).tolist()
    return {
        "index": picture.index,
        "text": picture.text,
        "score": picture.score,
        "correct": picture.correct,
        "map": map_HW,
    }


def _gallery(values: Mapping[str, Any]) -> Gallery:
    rows = tuple(GalleryRow(row["text"], tuple(map(_picture, row["pictures"]))) for row in values["rows"])
    return Gallery(values["title"], values["text"], rows)


def _picture(values: Mapping[str, Any]) -> Picture:
    map_HW = None if values["map"] is None else np.array(values["map"])
    return Picture(values["index"], values["text"], values["score"], values["correct"], map_HW)


def _table(values: Mapping[str, Any]) -> Table:
    rows = tuple(TableRow(row["name"], tuple(row["metrics"])) for row in values["rows"])
    return Table(values["title"], values["row_heading"], tuple(values["columns"]), rows, values["text"])
