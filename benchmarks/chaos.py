"""Faults strike a training run; does it come out as if nothing had happened? One JSON line.

    python benchmarks/chaos.py --faults 12 --seed 1
    python benchmarks/chaos.py --faults 4 --recipe mine.yaml --corrupt-checkpoints batch.micro_batches=4
    python benchmarks/chaos.py --faults 4 --recipe mine.yaml --address 10.0.0.1:6379

A small ALBEF model in float64 is trained twice on a Ray cluster of several nodes on this machine with elastic workers:
undisturbed, and with a schedule of faults drawn from a seed. With --recipe the user's recipe is trained, with --address
on the user's cluster, where only those faults are possible that touch nothing but the run itself; its two runs stay in
the recipe's storage. Everything that was started is ended. Progress goes to standard error.

    faults, kinds         how many struck, of which kinds
    steps_lost            steps that were done again
    duplicates, gaps      samples and micro-batches that the ledger has twice, or lacks, against the order
    mlflow_duplicates     points that MLflow has twice for a metric and step
    leftovers             processes, shared memory, placement groups, actors, temporary files that remain
    detection_s_max       from a fault until the run says so, for those that end workers
    recovery_s_max        longest time without a step because of a fault
                          (a stopped worker counts in both from when recovery.hang_s is over)
    goodput               seconds of the undisturbed run / seconds of the disturbed one, for the same steps
    loss_difference_max   largest relative difference of a step's losses; null when a step is missing in MLflow
    untold                faults that the run did not report
    steps, seed, undisturbed_s, disturbed_s
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from chaos_cluster import ChaosCluster, own_cluster, users_cluster
from chaos_faults import ON_AGAIN, Outcome, Scene
from chaos_leftovers import MARK, Before, lasting
from chaos_measure import Figures, loss_difference, measure, run_folder
from chaos_schedule import Fault, Kind, ScheduleError, schedule
from chaos_scope import Scope
from chaos_setting import Setting, built_in, nodes_for, own_scale
from chaos_training import Training
from leaving import leave_after

from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe

STEPS_PER_FAULT = 32
LIMIT_S = 1800.0
"""How long a run may take that nothing disturbs."""


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--faults", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--kind", "kinds", type=click.Choice([kind.value for kind in Kind]), multiple=True, help="Default: all.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--recipe", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Default: a small ALBEF.")
@click.option("--address", help="A Ray cluster that is there; default: one is started.")
@click.option("--corrupt-checkpoints", is_flag=True, help="Checkpoints of --recipe's run may be damaged.")
def main(
    overrides: tuple[str, ...],
    faults: int,
    kinds: tuple[str, ...],
    seed: int,
    recipe: Path | None,
    address: str | None,
    corrupt_checkpoints: bool,
) -> None:
    """Train twice, once with faults, and print what became of it."""
    scope = Scope(address is None, recipe is None, corrupt_checkpoints)
    chosen = tuple(Kind(kind) for kind in kinds) or scope.kinds()
    for kind in chosen:
        if (why := scope.refusal(kind)) is not None:
            raise click.UsageError(f"--kind {kind}: {why}.")
    if address is not None and recipe is None:
        raise click.UsageError("--address: name a --recipe whose data and storage that cluster reaches.")
    try:
        with _place() as (before, scratch):
            with ExitStack() as stack:
                if recipe is None:
                    setting = built_in(stack, scratch, (faults + 1) * STEPS_PER_FAULT, chosen, overrides)
                else:
                    setting = Setting(recipe.absolute(), overrides, {})
                found, left = _both_runs(stack, setting, scratch, faults, chosen, seed, address)
            found["leftovers"] = left + lasting(lambda: before.left(scratch))
    except (FuserayError, RuntimeError, ScheduleError, subprocess.SubprocessError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(found))


@contextmanager
def _place() -> Iterator[tuple[Before, Path]]:
    """Give the run a mark and a folder, and end and remove whatever is left of it."""
    mark = secrets.token_hex(8)
    os.environ[MARK] = mark
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    before = Before.now(mark)
    scratch = Path(tempfile.mkdtemp(prefix="chaos-"))
    (scratch / "tmp").mkdir()
    tempfile.tempdir = str(scratch)
    try:
        yield before, scratch
    finally:
        tempfile.tempdir = None
        before.end()
        shutil.rmtree(scratch, ignore_errors=True)


def _both_runs(
    stack: ExitStack,
    setting: Setting,
    scratch: Path,
    faults: int,
    kinds: Sequence[Kind],
    seed: int,
    address: str | None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the figures, and what is left of the runs while the cluster is still there."""
    from orchestrator.train.plan import make_plan

    name = f"run-{os.environ[MARK][:6]}"
    own = (f"scale.address={address}",) if address is not None else own_scale(setting.named(name, ()))
    resolved = setting.named(name, own)
    steps, every = make_plan(resolved).steps, resolved.recipe.checkpoint.every_steps
    nodes = nodes_for(resolved.recipe.scale.max_workers)
    last = steps - max(every, steps // (faults + 1))  # the run has to last until the last fault is told
    drawn = schedule(seed, faults, kinds, range(every + 1, last), nodes)
    settings = dict(setting.environment) | {"TMPDIR": str(scratch / "tmp")}
    cluster = stack.enter_context(
        own_cluster(nodes.first, 1, settings) if address is None else users_cluster(address, settings)
    )
    there = cluster.left()
    runs = [
        _run(stack, setting, cluster, setting.named(f"{kind}-{name}", (*own, *_audited_on(cluster))), scratch, strikes)
        for kind, strikes in (("undisturbed", ()), ("chaos", drawn))
    ]
    left = [one for run in runs for one in run.lingering]
    left += lasting(lambda: [one for one in cluster.left() if one not in there])
    return _figures(*runs, steps) | {"seed": seed}, left


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over.

    Args:
        figures: what its files and MLflow hold.
        seconds: how long it took.
        done: the steps in the order in which they were done.
        outcomes: what became of its faults.
        lingering: processes that should have gone.
    """

    figures: Figures
    seconds: float
    done: tuple[int, ...]
    outcomes: tuple[Outcome, ...]
    lingering: tuple[str, ...]


def _run(
    stack: ExitStack,
    setting: Setting,
    cluster: ChaosCluster,
    resolved: ResolvedRecipe,
    scratch: Path,
    faults: Sequence[Fault],
) -> Run:
    scene = _scene(stack, setting, cluster, resolved, scratch)
    training = scene.training
    training.start()
    outcomes = tuple(_strike(scene, fault) for fault in faults)
    seconds = training.finish(LIMIT_S)
    done = tuple(line.step for line in training.lines if line.step is not None)
    click.echo(f"{resolved.recipe.name}: {len(set(done))} steps in {seconds:.0f} s", err=True)
    return Run(measure(resolved), seconds, done, outcomes, tuple(scene.lingering))


def _figures(undisturbed: Run, disturbed: Run, steps: int) -> dict[str, Any]:
    outcomes = disturbed.outcomes
    return {
        "faults": len(outcomes),
        "kinds": sorted({outcome.fault.kind for outcome in outcomes}),
        "steps_lost": len(disturbed.done) - len(set(disturbed.done)),
        "duplicates": disturbed.figures.duplicates,
        "gaps": disturbed.figures.gaps,
        "mlflow_duplicates": disturbed.figures.mlflow_duplicates,
        "leftovers": [],
        "detection_s_max": _largest([one.detection_s for one in outcomes if one.detection_s is not None]),
        "recovery_s_max": _largest([one.recovery_s for one in outcomes]),
        "goodput": round(undisturbed.seconds / disturbed.seconds, 3),
        "loss_difference_max": loss_difference(undisturbed.figures, disturbed.figures, steps),
        "untold": [f"{one.fault.kind} at step {one.fault.step}" for one in outcomes if not one.told],
        "steps": steps,
        "undisturbed_s": round(undisturbed.seconds, 1),
        "disturbed_s": round(disturbed.seconds, 1),
    }


def _audited_on(cluster: ChaosCluster) -> tuple[str, ...]:
    return ("stream.audit=true", f"scale.address={cluster.address}")


def _scene(stack: ExitStack, setting: Setting, cluster: ChaosCluster, resolved: ResolvedRecipe, scratch: Path) -> Scene:
    recipe = resolved.recipe
    file = scratch / f"{recipe.name}.yaml"
    from orchestrator.train.plan import recipe_yaml

    file.write_text(recipe_yaml(resolved))
    training = Training(file, (), cluster.environment, scratch / f"{recipe.name}.log")
    stack.callback(training.kill)
    return Scene(
        cluster,
        training,
        run_folder(resolved),
        scratch,
        recipe.recovery.hang_s,
        recipe.checkpoint.every_steps,
        setting.proxy,
        setting.mlflow,
    )


def _strike(scene: Scene, fault: Fault) -> Outcome:
    outcome = scene.strike(fault)
    seen = "" if outcome.detection_s is None else f"told after {outcome.detection_s:.1f} s, "
    said = [line.said for line in scene.training.lines if line.said.startswith(ON_AGAIN)]
    last = f" ({said[-1]})" if said else ""
    click.echo(f"step {fault.step} {fault.kind}: {seen}{outcome.recovery_s:.1f} s without a step{last}", err=True)
    return outcome


def _largest(values: Sequence[float]) -> float | None:
    return round(max(values), 2) if values else None


if __name__ == "__main__":
    leave_after(main)
