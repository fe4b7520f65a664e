"""What a sweep comes to: trials, machines, samples, hours and dollars, worked out before anything is started. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.plan.checks import Judgement
from orchestrator.plan.estimates import PRICINGS, Pricing, reading_cpus, usd_of
from orchestrator.plan.machines import Fleet, fleet_for
from orchestrator.sweep.early_stopping import expected_runs
from orchestrator.sweep.proposals import configurations
from orchestrator.sweep.room import Bound, Room, TrialNeeds, side_by_side


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
        SpecError: the grid is empty.
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
