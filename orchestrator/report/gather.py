"""Collects what a report says about a run from storage and MLflow."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

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
from orchestrator.track.cost import Costs, RunCost, read_starts
from orchestrator.track.run_writer import Curves, TrackedRun
from workloads.contract import Evaluation, EvaluationOptions, HeatMap, Match, Ranking, Sample

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


# An evaluation as files: figures and rankings as JSON, the pictures they speak of beside it.


FILE = "evaluation.json"


@dataclass(frozen=True, slots=True)
class Picture:
    """An evaluated sample's image, as encoded in its shard, and its first caption."""

    image: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class SavedEvaluation:
    """An evaluation read back.

    Args:
        evaluation: the figures, rankings and maps.
        pictures: the samples that rankings and maps name, by row.
        subject: what was evaluated: step, options, data.
    """

    evaluation: Evaluation
    pictures: dict[int, Picture]
    subject: dict[str, Any]


def subject(step: int, options: EvaluationOptions, held_out: str) -> dict[str, Any]:
    """Return what determines an evaluation, to know whether it is up to date."""
    return {
        "step": step,
        "rerank": options.rerank,
        "gallery": options.gallery,
        "heat_maps": options.heat_maps,
        "held_out": held_out,
    }


def save_evaluation(folder: Location, evaluation: Evaluation, samples: Sequence[Sample], about: dict[str, Any]) -> None:
    """Write an evaluation; the JSON comes last, so that a half-written one does not count."""
    rows = {match.index for ranking in evaluation.gallery for match in ranking.matches}
    rows |= {heat_map.index for heat_map in evaluation.heat_maps}
    for row in sorted(rows):
        (folder / f"image-{row:06d}").write(samples[row].image)
    content = {
        "subject": about,
        "metrics": dict(evaluation.metrics),
        "gallery": [
            {"query": one.query, "matches": [[match.index, match.score, match.relevant] for match in one.matches]}
            for one in evaluation.gallery
        ],
        "heat_maps": [
            {"index": one.index, "words": one.words, "maps": np.round(one.maps_WHW, 4).tolist()}
            for one in evaluation.heat_maps
        ],
        "captions": {row: samples[row].captions[0] for row in sorted(rows)},
    }
    (folder / FILE).write(json.dumps(content).encode())


def load_evaluation(folder: Location) -> SavedEvaluation | None:
    """Return the saved evaluation, or None when there is none."""
    if (folder / FILE).size() is None:
        return None
    content = json.loads((folder / FILE).read())
    evaluation = Evaluation(
        content["metrics"],
        tuple(Ranking(one["query"], tuple(Match(*match) for match in one["matches"])) for one in content["gallery"]),
        tuple(HeatMap(one["index"], tuple(one["words"]), np.array(one["maps"])) for one in content["heat_maps"]),
    )
    pictures = {
        int(row): Picture((folder / f"image-{int(row):06d}").read(), caption)
        for row, caption in content["captions"].items()
    }
    return SavedEvaluation(evaluation, pictures, content["subject"])
