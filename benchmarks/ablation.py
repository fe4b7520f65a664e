"""ALBEF's ablation with VILLA's rows on top, measured on emoji in several drawing styles; JSON lines.

    python benchmarks/ablation.py                       # the whole table; says first how long it takes
    python benchmarks/ablation.py --quick               # a part of it, meant for 15 minutes on two cores
    python benchmarks/ablation.py --row +itc --row +hard-negatives --noise clean --seed 0 --set length.steps=300

Rows and base recipe are those of ablation_rows.py and ablation.yaml. Every run sees equally many samples; runs of one
seed see them in the same order and start from the same weights. A part of the captions is swapped for training alone.
Runs share the machine's cores, one thread each. A finished run is kept in the results file and not repeated; one that
was interrupted begins again. Lines on standard output:

    {"row", "noise", "seed", "metric", "value"}         for each metric of each run
    {"summary", "row", "noise", "metric", "mean", "spread", "seeds"}    spread: standard deviation over seeds

Metrics are held-out: recalls (`text_to_image/recall@1` and so on, with `reranked/` by the matching head over the whole
gallery) with their chance, `loss_itm` and `loss_mlm` with theirs, `loss_mlm_other_image`; and the run's `seconds`. The
table stands on standard error at the end, beside estimate and progress.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, cast

import click
from ablation_corpus import Corpus, prepare
from ablation_results import Result, ResultsFile, summary, table, unfinished
from ablation_rows import NOISE, ROWS, Run, runs
from leaving import leave_after

from orchestrator.config.errors import FuserayError
from orchestrator.train.ray_session import LARGE_ALLOCATIONS
from workloads.albef.config import AlbefConfig
from workloads.contract import WorkloadError

if TYPE_CHECKING:
    from ablation_tokens import ImageTokens
    from ablation_training import Training

FOLDER = Path("data") / "benchmark" / "ablation"
SEEDS = 3
QUICK_ROWS = ("mlm+itm", "+itc", "+hard-negatives", "+distilled-mlm")
QUICK_OVERRIDES = ("length.steps=150",)
TIMED_STEPS = 4


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rows, one seed, fewer steps; unless these are given.")
@click.option("--row", "rows", type=click.Choice(list(ROWS)), multiple=True, help="Of the table; by default all.")
@click.option("--noise", "noises", type=click.Choice(list(NOISE)), multiple=True, help="By default all.")
@click.option("--seed", "seeds", type=click.IntRange(min=0), multiple=True, help=f"By default 0 to {SEEDS - 1}.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override of the base recipe for all rows."
)
@click.option("--iconify", type=click.Path(path_type=Path), multiple=True, help="icons.json files in place of npm's.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="For the data.")
@click.option("--results", type=click.Path(path_type=Path), help="File of finished runs; by default in the folder.")
@click.option("--processes", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True)
def main(
    quick: bool,
    rows: Sequence[str],
    noises: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    iconify: Sequence[Path],
    folder: Path,
    results: Path | None,
    processes: int,
) -> None:
    """Train the runs that have no result yet, and print all."""
    os.environ.update(LARGE_ALLOCATIONS | {"OMP_NUM_THREADS": "1"})
    rows = rows or (QUICK_ROWS if quick else tuple(ROWS))
    seeds = seeds or range(1 if quick else SEEDS)
    wanted = list(runs(rows, noises or tuple(NOISE), seeds, (*(QUICK_OVERRIDES if quick else ()), *overrides)))
    kept = ResultsFile(results or folder / "results.jsonl")
    try:
        if quick:
            _say(_left_out(wanted))
        corpus = prepare(folder, iconify)
        keys = {run.key(corpus.digest): run for run in wanted}
        if missing := unfinished(keys, kept.results):
            _train(missing, Data.of(corpus, folder, missing[0]), kept, processes)
    except (FuserayError, WorkloadError) as error:
        raise SystemExit(str(error)) from None
    finished = {key: kept.results[key] for key in keys}
    for result in finished.values():
        for line in result.lines():
            click.echo(json.dumps(line))
    for line in summary(finished):
        click.echo(json.dumps(line))
    _say(table(finished))


def _left_out(wanted: Sequence[Run]) -> str:
    """Return what a quick table lacks."""
    rows, seeds = {run.row for run in wanted}, {run.seed for run in wanted}
    full = Run(next(iter(ROWS)), next(iter(NOISE)), 0)
    share = wanted[0].steps / full.steps
    return (
        f"quick: left out are the rows {', '.join(row for row in ROWS if row not in rows) or 'none'}, "
        f"{max(SEEDS - len(seeds), 0)} of {SEEDS} seeds, and {1 - share:.0%} of the steps"
    )


@dataclass(frozen=True, slots=True)
class Data:
    """What a process needs to train any of the runs; small, since it is sent along with each.

    Args:
        corpus: without its images.
        tokens: of its images.
    """

    corpus: Corpus
    tokens: ImageTokens

    @classmethod
    def of(cls, corpus: Corpus, folder: Path, run: Run) -> Data:
        """Return the data of all runs, given one of them.

        Raises:
            ConfigError: the base recipe or an override is wrong.
            WorkloadError: the encoder's weights are missing.
        """
        from ablation_tokens import precompute

        config = cast(AlbefConfig, run.recipe.workload)
        return cls(
            corpus.without_images(), precompute(folder, config, (*corpus.train, *corpus.held_out), corpus.digest)
        )

    def training(self, run: Run) -> Training:
        """Return a run that has not begun."""
        from ablation_training import Training

        return Training(run, self.corpus, self.tokens)


def _train(missing: Sequence[Run], data: Data, kept: ResultsFile, processes: int) -> None:
    """Train runs side by side; keep each result as soon as it is there.

    Raises:
        WorkloadError: the encoders' weights are missing.
    """
    seconds = _estimate(missing, data) / min(processes, len(missing))
    _say(f"{len(missing)} runs of {missing[0].steps} steps are left; they take about {_time(seconds)}")
    began, spawn = monotonic(), get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_leave_with, initargs=(os.getpid(),)) as pool:
        pending = {pool.submit(_run, run, data): run for run in missing}
        for done, future in enumerate(as_completed(pending), start=1):
            run = pending[future]
            kept.add(Result.of(run, run.key(data.corpus.digest), future.result()))
            left = (monotonic() - began) / done * (len(missing) - done)
            _say(f"{done} of {len(missing)} runs: {run.row}, {run.noise}, seed {run.seed}; about {_time(left)} left")


def _run(run: Run, data: Data) -> dict[str, float]:
    """Train one run and measure it, in a process of its own."""
    began = monotonic()
    metrics = data.training(run).finish()
    return metrics | {"steps": float(run.steps), "seconds": round(monotonic() - began, 1)}


def _estimate(missing: Sequence[Run], data: Data) -> float:
    """Return the seconds that runs take one after the other, from a few steps of each row and one measurement."""
    seconds: dict[str, float] = {}
    for run in missing:
        if run.row not in seconds:
            training, times = data.training(run), [monotonic()]
            for number in range(TIMED_STEPS):
                training.step(number)
                times.append(monotonic())
            seconds[run.row] = statistics.median(end - begin for begin, end in pairwise(times)) * run.steps
    began = monotonic()
    training.measure()
    measuring = monotonic() - began
    return sum(seconds[run.row] + measuring for run in missing)


def _leave_with(parent: int) -> None:
    """End this process when its parent has ended, even killed: nobody would keep its result."""

    def watch() -> None:
        while os.getppid() == parent:
            sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave_after(main)
