"""The results file of the ablation, one JSON line for each finished run, and its summary over seeds."""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation_rows import Run


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run measured.

    Args:
        key: of the run; see `Run.key`.
        row: the run's row.
        noise: its noise.
        seed: its seed.
        metrics: by name.
    """

    key: str
    row: str
    noise: str
    seed: int
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, run: Run, key: str, metrics: Mapping[str, float]) -> Result:
        """Return the result of a run."""
        return cls(key, run.row, run.noise, run.seed, metrics)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield a line for each metric."""
        for metric, value in self.metrics.items():
            yield {"row": self.row, "noise": self.noise, "seed": self.seed, "metric": metric, "value": value}


class ResultsFile:
    """Finished runs by key; every added one is on disk when `add` returns.

    Args:
        path: need not exist. A last line that a killed process left unfinished is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.results: dict[str, Result] = {}
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else ():
            if line.endswith("\n"):
                result = Result(**json.loads(line))
                self.results[result.key] = result

    def add(self, result: Result) -> None:
        """Keep a result, replacing the file as a whole."""
        self.results[result.key] = result
        fields = ("key", "row", "noise", "seed", "metrics")
        lines = [json.dumps({name: getattr(each, name) for name in fields}) + "\n" for each in self.results.values()]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f"{self._path.name}.part")
        part.write_text("".join(lines), encoding="utf-8")
        os.replace(part, self._path)


def summary(results: Mapping[str, Result]) -> Iterator[dict[str, Any]]:
    """Yield mean, spread (sample standard deviation; None of one seed) and number of seeds of each metric.

    Args:
        results: of one table.
    """
    values: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for result in results.values():
        for metric, value in result.metrics.items():
            values[result.row, result.noise, metric].append(value)
    for (row, noise, metric), measured in values.items():
        spread = statistics.stdev(measured) if len(measured) > 1 else None
        figures = {"mean": statistics.fmean(measured), "spread": spread, "seeds": len(measured)}
        yield {"summary": True, "row": row, "noise": noise, "metric": metric, **figures}


def unfinished(wanted: Mapping[str, Run], finished: Mapping[str, Result]) -> list[Run]:
    """Return the runs that have no result yet, in order; both are by key."""
    return [run for key, run in wanted.items() if key not in finished]


SHOWN = {
    "R@1": "text_to_image/recall@1",
    "R@10": "text_to_image/recall@10",
    "i2t R@1": "image_to_text/recall@1",
    "i2t R@10": "image_to_text/recall@10",
    "ITM R@1": "reranked/text_to_image/recall@1",
    "ITM R@10": "reranked/text_to_image/recall@10",
    "ITM i2t R@1": "reranked/image_to_text/recall@1",
    "ITM i2t R@10": "reranked/image_to_text/recall@10",
    "ITM loss": "loss_itm",
    "MLM loss": "loss_mlm",
    "MLM, other image": "loss_mlm_other_image",
}
"""Columns of the table: contrastive recalls, those of the matching head over the whole gallery, held-out losses."""


def table(results: Mapping[str, Result]) -> str:
    """Return the means and spreads as a Markdown table; recalls are percentages."""
    cells: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for line in summary(results):
        scale, digits = (100, 1) if "recall" in line["metric"] else (1, 3)
        spread = "" if line["spread"] is None else f" ± {scale * line['spread']:.{digits}f}"
        cells[line["row"], line["noise"]][line["metric"]] = f"{scale * line['mean']:.{digits}f}{spread}"
        cells[line["row"], line["noise"]]["seeds"] = str(line["seeds"])
    heads = ("row", "captions", "seeds", *SHOWN)
    lines = [heads, ["---"] * len(heads)]
    for (row, noise), values in cells.items():
        lines.append([row, noise, values["seeds"], *(values.get(metric, "") for metric in SHOWN.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
