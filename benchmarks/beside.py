"""How much an evaluation beside the training slows its steps: JSON lines.

    python benchmarks/beside.py --rounds 5

The same recipe trains on one worker with and without an actor that measures it; the two take turns. In both the worker
has the first CPU to itself, and readers, driver and evaluation share the other CPUs. Both save a checkpoint at every
step that is measured, so the difference is the evaluation's alone. Keys:

    step_s, beside_step_s     median seconds of a step, without and with an evaluation beside it
    slowdown                  beside_step_s / step_s - 1
    measured                  evaluations of the training with them; those that came too late for it are skipped

The last line, `{"what": "beside", "rounds", "slowdown", "spread"}`, has the median over the rounds and their range.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from leaving import leave_after
from stream_data import prepare
from sweep import DATA, Bench

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.analysis import step_seconds
from orchestrator.track.metric_log import read_measured_log, read_metric_log

PHOTOS = 512
WARM_UP = 5
"""Steps at the beginning that are left out."""

WORKER = b"ray::RayTrainWorker"
LOOK_EVERY_S = 0.5

RECIPE: dict[str, Any] = {
    "workload": "albef",
    "batch": {"micro_batches": 1, "micro_batch_size": 32},
    "scale": {"workers": 1, "cpus_per_worker": 0.5, "object_store_mb": 300},
    "stream": {"chunk": 1, "window": 64},
    "model": {"preset": "tiny", "image_size": 64, "text_weights": None},
    "text": {"max_tokens": 16},
    "contrastive": {"queue_size": 0},
}


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--steps", type=click.IntRange(min=20), default=60, show_default=True, help="Of each training.")
@click.option("--every", type=click.IntRange(min=1), default=10, show_default=True, help="Steps between evaluations.")
@click.option("--samples", type=click.IntRange(min=2), default=256, show_default=True, help="Of an evaluation.")
def main(rounds: int, steps: int, every: int, samples: int) -> None:
    """Measure and print."""
    photos = str(prepare(DATA, PHOTOS, with_chunks=False).shards.absolute())
    recipe = RECIPE | {
        "data": {"train": photos, "held_out": photos},
        "length": {"steps": steps},
        "checkpoint": {"every_steps": every, "keep": 2},
    }
    evaluation = {"evaluation": {"every_steps": every, "samples": samples, "where": "beside", "cpus": 0.5}}
    with TemporaryDirectory(prefix="beside-benchmark-", dir=Path.cwd()) as folder:
        bench = Bench(Path(folder))
        slowdowns = []
        for number in range(rounds):
            alone, beside = _train(bench, recipe), _train(bench, recipe | evaluation)
            step_s, beside_step_s = _median_step_s(alone), _median_step_s(beside)
            slowdowns.append(beside_step_s / step_s - 1)
            line = {"what": "beside", "round": number, "step_s": step_s, "beside_step_s": beside_step_s}
            measured = len(read_measured_log(beside.measured))
            click.echo(json.dumps(line | {"slowdown": slowdowns[-1], "measured": measured}))
    summary = {"slowdown": statistics.median(slowdowns), "spread": [min(slowdowns), max(slowdowns)]}
    click.echo(json.dumps({"what": "beside", "rounds": rounds, **summary}))


def _train(bench: Bench, recipe: dict[str, Any]) -> RunFolder:
    """Train a recipe; return its run's folder."""
    name = bench.name()
    bench.write(recipe, {})
    with _worker_on_a_cpu_of_its_own():
        bench.fuseray("train", "recipe.yaml", f"name={name}")
    return RunFolder(locate(str(bench.folder / "runs" / name)))


@contextmanager
def _worker_on_a_cpu_of_its_own() -> Iterator[None]:
    """Keep all that this process starts off the first CPU, and move training workers there as they come."""
    cpus, done = os.sched_getaffinity(0), threading.Event()
    own, *others = sorted(cpus)
    if not others:
        raise click.ClickException("this needs two CPUs, and there is one.")
    os.sched_setaffinity(0, others)
    mover = threading.Thread(target=_move_workers, args=(own, done))
    mover.start()
    try:
        yield
    finally:
        done.set()
        mover.join()
        os.sched_setaffinity(0, cpus)


def _move_workers(cpu: int, done: threading.Event) -> None:
    """Look for training workers, and move all of their threads, until done."""
    while not done.wait(LOOK_EVERY_S):
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if (process / "cmdline").read_bytes().startswith(WORKER):
                    for thread in (process / "task").iterdir():
                        os.sched_setaffinity(int(thread.name), {cpu})


def _median_step_s(run: RunFolder) -> float:
    seconds = [step_seconds(line.seconds) for line in read_metric_log(run.metrics)]
    return statistics.median(seconds[WARM_UP:])


if __name__ == "__main__":
    leave_after(main)
