"""What a sweep comes to: trials, machines, samples, hours and dollars, worked out before anything is started. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.config.recipe import Recipe
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.plan.checks import Judgement
from orchestrator.plan.estimates import PRICINGS, Pricing, reading_cpus, usd_of
from orchestrator.plan.machines import Fleet, Kind, fleet_for
from orchestrator.sweep.rungs import expected_runs
from orchestrator.sweep.sampler import configurations

# How many trials run side by side, and why not more: a pure decision.


SLACK = 1e-9
"""Sums of CPUs such as 3 x 0.1 are not exact."""

Bound = Literal["trials", "concurrency", "CPUs", "GPUs"]
"""What keeps more trials from running side by side."""


@dataclass(frozen=True, slots=True)
class Room:
    """What trials may use together.

    Args:
        cpus: infinite when nobody knows.
        gpus: of all machines.
    """

    cpus: float
    gpus: float

    @classmethod
    def of(cls, kinds: Sequence[Kind]) -> Room:
        """Return the room on a cluster with all machines that it may have."""
        there = [kind for kind in kinds if kind.group.most]
        return cls(
            sum(kind.cpus * kind.group.most for kind in there), sum(kind.group.gpus * kind.group.most for kind in there)
        )


@dataclass(frozen=True, slots=True)
class TrialNeeds:
    """What a trial has to have before it can start.

    Args:
        workers: training workers.
        cpus: of the workers and for reading.
        gpus: one for each worker, or none.
    """

    workers: int
    cpus: float
    gpus: int

    @classmethod
    def of(cls, recipe: Recipe) -> TrialNeeds:
        """Return what a trial of a recipe needs, with as few workers as it may have."""
        scale = recipe.scale
        cpus = scale.min_workers * scale.cpus_per_worker + recipe.stream.reader_cpus
        return cls(scale.min_workers, cpus, scale.min_workers if scale.use_gpu else 0)


def side_by_side(trials: int, concurrency: int | None, needs: TrialNeeds, room: Room) -> tuple[int, Bound]:
    """Return how many trials run at the same time, 0 when not even one has room, and what the bound is.

    Args:
        trials: of the whole sweep.
        concurrency: the most that the sweep wants; None for any number.
        needs: of one trial.
        room: what there is for all.
    """
    bounds: dict[Bound, float] = {
        "trials": trials,
        "concurrency": math.inf if concurrency is None else concurrency,
        "CPUs": room.cpus / needs.cpus + SLACK,
        "GPUs": room.gpus / needs.gpus if needs.gpus else math.inf,
    }
    bound = min(bounds, key=lambda one: math.inf if math.isinf(bounds[one]) else int(bounds[one]))
    return int(bounds[bound]), bound


def too_little_room(trials: int, concurrency: int | None, at_a_time: int) -> str:
    """Return a line for the user when fewer trials run at a time than the sweep wants; empty otherwise.

    Args:
        trials: of the whole sweep.
        concurrency: the most that the sweep wants; None for any number.
        at_a_time: how many trials run at a time.
    """
    wanted = min(concurrency or 0, trials)
    if wanted <= at_a_time:
        return ""
    return f"concurrency: there is no room for {wanted} trials at a time, so it is {at_a_time}."


# What a sweep comes to: trials, machines, samples, hours and dollars, worked out before anything is started. Pure.


@dataclass(frozen=True, slots=True)
class Amount:
    """What a number of whole trials takes; None is what nobody knows.

    Args:
        runs: whole trials, or parts of trials that come to so many.
        samples: that they see.
        hours: from the sweep's beginning to its end.
        gpu_hours: of their workers.
        usd: by how machines are paid for.
    """

    runs: float
    samples: int | None
    hours: float | None
    gpu_hours: float | None
    usd: Mapping[Pricing, float | None]


@dataclass(frozen=True, slots=True)
class SweepEstimate:
    """What to expect of a sweep.

    Args:
        configurations: that are tried.
        replicas: of each.
        needs: of one trial.
        side_by_side: trials that run at the same time, 0 when not even one has room.
        bound: why not more.
        steps: of a whole trial; None when unknown.
        trial: one whole trial by itself.
        whole: all trials, each to its end.
        expected: with those that are stopped early; None when the scheduler stops none.
    """

    configurations: int
    replicas: int
    needs: TrialNeeds
    side_by_side: int
    bound: Bound
    steps: int | None
    trial: Amount
    whole: Amount
    expected: Amount | None

    @property
    def trials(self) -> int:
        """Trials of the whole sweep."""
        return self.configurations * self.replicas

    @property
    def likely(self) -> Amount:
        """What is expected, or all there is when nothing is stopped early."""
        return self.expected or self.whole


def estimate_sweep(
    sweep: ResolvedSweep, judgement: Judgement, decode_cpu_s: float | None = None, room: Room | None = None
) -> SweepEstimate:
    """Work out a sweep from what is known of one run of its recipe.

    Trials are taken to be alike, each with as few workers as it may have, and to start as soon as there is room.

    Args:
        sweep: the sweep.
        judgement: of its recipe, on the machines that the trials share.
        decode_cpu_s: CPU seconds that decoding a sample takes; None when unknown.
        room: what trials may use together; None for all that the judged machines have.

    Raises:
        ConfigError: the grid is empty.
    """
    recipe, tried = sweep.recipe({}).recipe, configurations(sweep)
    needs, trials = TrialNeeds.of(recipe), tried * sweep.sweep.replicas
    side, bound = side_by_side(trials, sweep.sweep.concurrency, needs, room or Room.of(judgement.kinds))
    together, alone = max(1, side), judgement.scenarios[0]
    reading = reading_cpus(recipe, alone.wanted_per_s, decode_cpu_s)
    fleet = fleet_for(judgement.kinds, together * needs.workers, recipe, together * reading)
    trial = _Trial(needs, judgement.samples, _hours(judgement, together), together, fleet)
    expected = expected_runs(sweep.sweep.scheduler, trials)
    return SweepEstimate(
        configurations=tried,
        replicas=sweep.sweep.replicas,
        needs=needs,
        side_by_side=side,
        bound=bound,
        steps=judgement.steps,
        trial=trial.one(),
        whole=trial.amount(trials, math.ceil(trials / together)),
        expected=None if expected >= trials else trial.amount(expected, max(1, expected / together)),
    )


def _hours(judgement: Judgement, together: int) -> float | None:
    """Return how long a trial takes while others run beside it, which on CPUs may slow it down."""
    pace, speed = judgement.scenarios[0].samples_per_s, judgement.speed
    if judgement.samples is None or not pace or speed is None:
        return None
    return judgement.samples / min(pace, speed.most / together) / 3600


@dataclass(frozen=True, slots=True)
class _Trial:
    needs: TrialNeeds
    samples: int | None
    hours: float | None
    together: int
    fleet: Fleet

    def amount(self, runs: float, in_turn: float) -> Amount:
        """Return what so many whole trials take, of which so many come one after the other on all machines."""
        hours = None if self.hours is None else self.hours * in_turn
        return Amount(
            runs=runs,
            samples=None if self.samples is None else round(runs * self.samples),
            hours=hours,
            gpu_hours=None if self.hours is None else runs * self.hours * self.needs.gpus,
            usd={pricing: usd_of(self.fleet, pricing, hours) for pricing in PRICINGS},
        )

    def one(self) -> Amount:
        """Return what a trial takes beside the others, which pay for their part of the machines."""
        amount = self.amount(1, 1)
        shares = {pricing: None if usd is None else usd / self.together for pricing, usd in amount.usd.items()}
        return replace(amount, usd=shares)


# What follows from a sweep's estimate: whether it has room, and how its budget will cut it.


FORMS = {"hours": "{:,.2f} h", "gpu_hours": "{:,.1f} GPU-hours", "usd": "${:,.2f}"}


def estimate_findings(sweep: ResolvedSweep, estimate: SweepEstimate) -> Iterator[Finding]:
    """Yield what is to be said about an estimate.

    Args:
        sweep: the sweep.
        estimate: of it.
    """
    yield _room(estimate)
    for key, limit in sweep.sweep.budget:
        if limit is not None:
            yield _budget(key, limit, estimate)


def _room(estimate: SweepEstimate) -> Finding:
    needs, side = estimate.needs, estimate.side_by_side
    each = f"{needs.cpus:.4g} CPUs" + (f" and {needs.gpus} GPUs" if needs.gpus else "")
    if side == 0:
        fix = "Lower scale.workers, scale.cpus_per_worker or stream.reader_cpus (overrides), or name larger machines."
        return failed("room", f"a trial needs {each}, and there are not so many {estimate.bound}", fix)
    return passed("room", f"a trial needs {each}; {side} of {estimate.trials} run side by side ({estimate.bound})")


def _budget(key: str, limit: float, estimate: SweepEstimate) -> Finding:
    said = f"budget.{key} is {FORMS[key].format(limit)}"
    likely, whole = _need(key, estimate.likely), _need(key, estimate.whole)
    if likely is None or whole is None:
        unknown = "what the machines cost" if key == "usd" else "how fast trials are"
        fix = "Nothing: the sweep stops at the limit, and its trials with a checkpoint."
        if key == "usd":
            fix = "Name the prices with --prices FILE; what has no known price is left out of the budget."
        return warned("budget", f"{said}; {unknown} is unknown here", fix)
    needs = f"the sweep needs {FORMS[key].format(likely)}"
    if likely < whole:
        needs += f", {FORMS[key].format(whole)} if no trial is stopped early"
    needs += " (estimate)"
    if likely <= limit:
        return passed("budget", f"{said}; {needs}")
    enough = int(estimate.trials * limit / likely)
    fix = f"Raise budget.{key}, lower search.trials, or shorten the trials (length); it can be continued later."
    lasts = f"lasts for about {enough} of {estimate.trials} trials" if enough else "does not last for a whole trial"
    return warned("budget", f"{said}, and {needs}; it {lasts}", fix)


def _need(key: str, amount: Amount) -> float | None:
    return {"hours": amount.hours, "gpu_hours": amount.gpu_hours, "usd": amount.usd["file"]}[key]
