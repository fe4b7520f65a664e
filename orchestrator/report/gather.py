"""Collects what a report says about a run from storage and MLflow."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from orchestrator.report.evaluation_file import SavedEvaluation, load_evaluation
from orchestrator.report.model import (
    Checkpoint,
    Curve,
    GalleryQuery,
    Headline,
    Report,
    RetrievedImage,
    Run,
    Skipped,
    Status,
    WordMaps,
)
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunFile, RunFolder, checkpoint_step
from orchestrator.track.cost import Costs, Spent, read_starts
from orchestrator.track.run_writer import Curves, TrackedRun

TIME_PARTS = {
    "startup": "start-up",
    "data_wait": "data wait",
    "forward_backward": "forward and backward",
    "gradient_sync": "gradient sync",
    "optimizer": "optimiser",
    "teacher": "teacher and queue",
    "checkpoint": "checkpoints",
    "evaluation": "evaluation",
}
KEYS_SHOWN = 5


def gather(run: RunFolder) -> Report:
    """Return the report of a run.

    Args:
        run: the run.

    Raises:
        RunError: there is no such run.
        CostFileError: the record of its machines is damaged.
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
        time={title: sum(curves.get(f"seconds/{part}", ([], []))[1]) for part, title in TIME_PARTS.items()},
        retrieval=saved.evaluation.metrics if saved else {},
        gallery=_gallery(saved) if saved else (),
        heat_maps=_heat_maps(saved) if saved else (),
        skipped=_skipped(run.quarantine),
        recipe_yaml=run.recipe.read().decode(),
        machine=_machine(),
    )


def _run(run: RunFolder, file: RunFile, tracker: TrackedRun) -> Run:
    started, ended = tracker.times_ms()
    oldest_first = reversed(run.committed_checkpoints())
    return Run(
        name=file.name,
        status=Status(file.status),
        created=_time(started),
        finished=_time(ended) if ended else "",
        recipe=run.recipe.uri,
        checkpoints=tuple(
            Checkpoint(step=checkpoint_step(place), location=place.uri, size_bytes=sum(place.sizes().values()))
            for place in oldest_first
        ),
        mlflow_run_id=file.mlflow_run_id,
        mlflow_command=f"mlflow ui --backend-store-uri {file.tracking_uri}",
    )


def _headline(curves: Curves, tracker: TrackedRun, planned_steps: int, spent: Spent) -> Headline:
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


def _gallery(saved: SavedEvaluation) -> tuple[GalleryQuery, ...]:
    return tuple(
        GalleryQuery(
            ranking.query,
            tuple(
                RetrievedImage(
                    saved.pictures[match.index].image, match.score, match.relevant, saved.pictures[match.index].caption
                )
                for match in ranking.matches
            ),
        )
        for ranking in saved.evaluation.gallery
    )


def _heat_maps(saved: SavedEvaluation) -> tuple[WordMaps, ...]:
    return tuple(
        WordMaps(saved.pictures[one.index].image, one.words, one.maps_WHW) for one in saved.evaluation.heat_maps
    )


def _skipped(quarantine: Location) -> tuple[Skipped, ...]:
    if quarantine.size() is None:
        return ()
    keys: dict[str, list[str]] = defaultdict(list)
    for line in quarantine.read().decode().splitlines():
        entry = json.loads(line)
        keys[entry["reason"]].append(entry["key"])
    return tuple(Skipped(reason, len(found), tuple(found[:KEYS_SHOWN])) for reason, found in sorted(keys.items()))


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
