"""An evaluation as files: figures and rankings as JSON, the pictures they speak of beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.storage.location import Location
from workloads.contract import Evaluation, EvaluationOptions, HeatMap, Match, Ranking, Sample

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
