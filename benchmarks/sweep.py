"""What a sweep costs beside its trials, and what trials side by side save by sharing decoded images; JSON lines.

    python benchmarks/sweep.py                      # both
    python benchmarks/sweep.py --only shared-cache --photos 2048 --epochs 3

overhead: the same recipe as a run of its own (`fuseray train`) and as every trial of a sweep whose trials run one
after the other; runs and sweeps take turns. Keys:

    bare_s                  wall time of the run of its own; median
    sweep_s                 wall time of the sweep, from the command to its report; median
    overhead_s_per_trial    (sweep_s - trials x bare_s) / trials

shared cache: trials side by side over photographs, on a Ray with more CPUs than there are (the model is tiny, so most
of the work is decoding), without the shared cache and with an empty one in turns. Keys:

    shared_cache            whether trials shared decoded images
    seconds                 wall time of the trials, by the sweep's own record of its machines; median
    speedup                 the seconds without it / with it, in the line with it
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import click
import yaml
from leaving import leave_after
from stream_data import prepare

from orchestrator.storage.location import locate
from orchestrator.sweep.folder import SweepFolder
from orchestrator.track.cost import Costs, read_starts

DATA = Path("data") / "benchmark"
BATCH = 256
CPUS_PER_TRIAL = 1.25
CACHE_MB = 4000
RECIPE: dict[str, Any] = {
    "workload": "albef",
    "batch": {"micro_batches": 2, "micro_batch_size": BATCH // 2},
    "scale": {"workers": 1, "cpus_per_worker": 0.25, "object_store_mb": 300},
    "stream": {"chunk": 1, "window": 256},
    "model": {
        "preset": "tiny",
        "image_size": 32,
        "vision": {"width": 64, "depth": 2, "heads": 2},
        "text": {"width": 64, "heads": 2},
        "text_weights": None,
    },
    "text": {"max_tokens": 12},
    "contrastive": {"queue_size": 0},
    "checkpoint": {"every_steps": 1000},
}
SWEEP: dict[str, Any] = {
    "recipe": "recipe.yaml",
    "objectives": [{"metric": "loss", "mode": "min"}],
    "space": {"distillation.alpha": "uniform(0, 0.8)"},
}


@click.command()
@click.option("--only", type=click.Choice(["overhead", "shared-cache"]), help="Measure this alone.")
@click.option("--trials", type=click.IntRange(min=1), default=3, show_default=True, help="Of the overhead's sweep.")
@click.option("--steps", type=click.IntRange(min=1), default=30, show_default=True, help="Of the overhead's recipe.")
@click.option("--side-by-side", type=click.IntRange(min=2), default=4, show_default=True, help="Trials that share.")
@click.option("--photos", type=click.IntRange(min=64), default=4096, show_default=True, help="In the data.")
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True, help="Of the trials that share.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True)
def main(only: str | None, trials: int, steps: int, side_by_side: int, photos: int, epochs: int, rounds: int) -> None:
    """Measure and print."""
    data = prepare(DATA, photos, with_chunks=False)
    recipe = RECIPE | {"data": {"train": str(data.shards.absolute())}}
    with TemporaryDirectory(prefix="sweep-benchmark-", dir=Path.cwd()) as folder:
        bench = Bench(Path(folder))
        if only != "shared-cache":
            bench.write(recipe | {"length": {"steps": steps}}, SWEEP | _random(trials))
            click.echo(json.dumps(_overhead(bench, trials, rounds)))
        if only != "overhead":
            bench.write(recipe | {"length": {"epochs": epochs}}, SWEEP | _random(side_by_side))
            for line in _shared_cache(bench, side_by_side, rounds):
                click.echo(json.dumps(line))


class Bench:
    """A user's folder, with a home of its own.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs = 0

    def write(self, recipe: dict[str, Any], sweep: dict[str, Any]) -> None:
        """Write a recipe and a sweep over it."""
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))

    def name(self) -> str:
        """Return a name that no run has yet."""
        self._runs += 1
        return f"run-{self._runs}"

    def fuseray(self, *arguments: str) -> float:
        """Run a command; return its seconds.

        Raises:
            SystemExit: it failed.
        """
        private = {"XDG_STATE_HOME": "state", "FUSERAY_DECODED_CACHE": f"cache-{self._runs}"}
        variables = {key: str(self.folder / value) for key, value in private.items()}
        began = perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            check=False,
            cwd=self.folder,
            env=os.environ | variables,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(f"fuseray {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return perf_counter() - began


def _random(trials: int) -> dict[str, Any]:
    return {"search": {"method": "random", "trials": trials}}


def _overhead(bench: Bench, trials: int, rounds: int) -> dict[str, Any]:
    bare, swept = [], []
    for _ in range(rounds):
        bare.append(bench.fuseray("train", "recipe.yaml", f"name={bench.name()}"))
        swept.append(bench.fuseray("sweep", "sweep.yaml", "--no-plan", "concurrency=1", f"name={bench.name()}"))
    bare_s, sweep_s = statistics.median(bare), statistics.median(swept)
    figures = {"bare_s": bare_s, "sweep_s": sweep_s, "overhead_s_per_trial": (sweep_s - trials * bare_s) / trials}
    return {"trials": trials, "rounds": rounds} | {name: round(value, 2) for name, value in figures.items()}


def _shared_cache(bench: Bench, side_by_side: int, rounds: int) -> Iterator[dict[str, Any]]:
    cluster = {"cluster_name": "bench", "provider": {"type": "this-machine"}, "dashboard_port": 8931}
    room = {"cpus": round(side_by_side * CPUS_PER_TRIAL + 1), "object_store_mb": 500 * side_by_side}
    (bench.folder / "cluster.yaml").write_text(yaml.safe_dump(cluster | room))
    seconds: dict[int, list[float]] = {0: [], CACHE_MB: []}
    for _ in range(rounds):
        for limit, measured in seconds.items():
            measured.append(_side_by_side(bench, limit))
    without, with_it = map(statistics.median, seconds.values())
    common = {"trials": side_by_side, "rounds": rounds}
    yield common | {"shared_cache": False, "seconds": round(without, 1)}
    yield common | {"shared_cache": True, "seconds": round(with_it, 1), "speedup": round(without / with_it, 3)}


def _side_by_side(bench: Bench, limit_mb: int) -> float:
    """Return the seconds of a sweep on a fresh Ray, whose processes look for the cache in a folder of this round."""
    name = bench.name()
    bench.fuseray("up", "cluster.yaml")
    try:
        bench.fuseray(
            "sweep", "sweep.yaml", "--cluster", "cluster.yaml", f"name={name}",
            f"overrides.stream.decoded_cache_mb={limit_mb}",
        )  # fmt: skip
    finally:
        bench.fuseray("down", "cluster.yaml", "--yes")
    folder = SweepFolder(locate(str(bench.folder / "runs" / name)))
    _check_finished(folder.trials())
    return Costs(read_starts(folder.costs)).spent().seconds


def _check_finished(trials: Sequence[Any]) -> None:
    if unfinished := [one.name for one in trials if one.status != "FINISHED"]:
        sys.exit(f"{', '.join(unfinished)} did not finish, so the times cannot be compared.")


if __name__ == "__main__":
    leave_after(main)
