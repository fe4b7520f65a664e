"""Estimates a sweep before anything starts, and the findings about it: trials, machines, hours, dollars. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.config.recipe import Recipe
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.plan.checks import PreflightResult
from orchestrator.plan.estimates import PRICINGS, Pricing, reading_cpus, usd_of
from orchestrator.plan.machines import Fleet, NodeType, fleet_for
from orchestrator.sweep.rungs import expected_full_runs
from orchestrator.sweep.sampler import configuration_count

SLACK = 1e-9
"""Tolerance for floating-point sums of CPUs such as 3 x 0.1."""

Bound = Literal["trials", "concurrency", "CPUs", "GPUs"]
"""What limits the number of concurrent trials."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """The CPUs and GPUs that concurrent trials share.

    Args:
        cpus: of all machines; infinite when unknown.
        gpus: of all machines.
    """

    cpus: float
    gpus: float

    @classmethod
    def of(cls, node_types: Sequence[NodeType]) -> Capacity:
        """Return the capacity of a cluster at its maximum size."""
        usable = [each for each in node_types if each.group.most]
        cpus = sum(each.cpus * each.group.most for each in usable)
        return cls(cpus, sum(each.group.gpus * each.group.most for each in usable))


@dataclass(frozen=True, slots=True)
class TrialResources:
    """The resources that a trial needs to start.

    Args:
        workers: training workers.
        cpus: of the workers and for reading.
        gpus: one per worker, or none.
    """

    workers: int
    cpus: float
    gpus: int

    @classmethod
    def of(cls, recipe: Recipe) -> TrialResources:
        """Return what a trial of a recipe needs at its minimum number of workers."""
        scale = recipe.scale
        cpus = scale.min_workers * scale.cpus_per_worker + recipe.stream.reader_cpus
        return cls(scale.min_workers, cpus, scale.min_workers if scale.use_gpu else 0)


def max_concurrent_trials(
    trials: int, concurrency: int | None, needs: TrialResources, capacity: Capacity
) -> tuple[int, Bound]:
    """Return how many trials run at a time, 0 when not even one fits, and what limits them.

    Args:
        trials: of the whole sweep.
        concurrency: the sweep's limit; None for no limit.
        needs: of one trial.
        capacity: what all trials share.
    """
    bounds: dict[Bound, float] = {
        "trials": trials,
        "concurrency": math.inf if concurrency is None else concurrency,
        "CPUs": capacity.cpus / needs.cpus + SLACK,
        "GPUs": capacity.gpus / needs.gpus if needs.gpus else math.inf,
    }
    bound = min(bounds, key=lambda name: math.inf if math.isinf(bounds[name]) else int(bounds[name]))
    return int(bounds[bound]), bound


def concurrency_warning(trials: int, concurrency: int | None, at_a_time: int) -> str:
    """Return a message when fewer trials run at a time than the sweep's `concurrency`; empty otherwise.

    Args:
        trials: of the whole sweep.
        concurrency: the sweep's limit; None for no limit.
        at_a_time: how many trials run at a time.
    """
    requested = min(concurrency or 0, trials)
    if requested <= at_a_time:
        return ""
    return f"concurrency: there is no room for {requested} trials at a time, so it is {at_a_time}."


@dataclass(frozen=True, slots=True)
class Amount:
    """What a number of whole trials needs; None where unknown.

    Args:
        runs: whole trials; a fraction for trials that are stopped early.
        samples: that they see.
        hours: wall time of the sweep.
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
    """The estimates for a sweep.

    Args:
        configurations: that are tried.
        replicas: of each.
        needs: of one trial.
        side_by_side: trials that run at a time, 0 when not even one fits.
        bound: what limits them.
        steps: of a trial that is trained to the end; None when unknown.
        trial: one whole trial, with its share of the machines' cost.
        whole: all trials, each trained to the end.
        expected: all trials, with early stopping; None when the scheduler stops none.
    """

    configurations: int
    replicas: int
    needs: TrialResources
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
        """The expected amount; without early stopping, that of all trials trained to the end."""
        return self.expected or self.whole


def estimate_sweep(
    sweep: ResolvedSweep, result: PreflightResult, decode_cpu_s: float | None = None, capacity: Capacity | None = None
) -> SweepEstimate:
    """Estimate a sweep from the preflight of one run of its recipe.

    Trials are assumed to be alike, each with its minimum number of workers, and to start as soon as they fit.

    Args:
        sweep: the sweep.
        result: of its recipe's preflight, on the machines that the trials share.
        decode_cpu_s: CPU seconds of decoding one sample; None when unknown.
        capacity: what trials share; None for the cluster's maximum size.

    Raises:
        ConfigError: the grid is empty.
    """
    recipe, tried = sweep.recipe({}).recipe, configuration_count(sweep)
    needs, trials = TrialResources.of(recipe), tried * sweep.sweep.replicas
    side, bound = max_concurrent_trials(
        trials, sweep.sweep.concurrency, needs, capacity or Capacity.of(result.node_types)
    )
    concurrent, alone = max(1, side), result.scenarios[0]
    reading = reading_cpus(recipe, alone.wanted_per_s, decode_cpu_s)
    fleet = fleet_for(result.node_types, concurrent * needs.workers, recipe, concurrent * reading)
    trial = _TrialCost(needs, result.samples, _trial_hours(result, concurrent), concurrent, fleet)
    expected = expected_full_runs(sweep.sweep.scheduler, trials)
    return SweepEstimate(
        configurations=tried,
        replicas=sweep.sweep.replicas,
        needs=needs,
        side_by_side=side,
        bound=bound,
        steps=result.steps,
        trial=trial.per_trial(),
        whole=trial.amount(trials, math.ceil(trials / concurrent)),
        expected=None if expected >= trials else trial.amount(expected, max(1, expected / concurrent)),
    )


def _trial_hours(result: PreflightResult, concurrent: int) -> float | None:
    """Return the hours of a trial while others run concurrently, which on CPUs may slow it down."""
    samples_per_s, speed = result.scenarios[0].samples_per_s, result.speed
    if result.samples is None or not samples_per_s or speed is None:
        return None
    return result.samples / min(samples_per_s, speed.most / concurrent) / 3600


@dataclass(frozen=True, slots=True)
class _TrialCost:
    needs: TrialResources
    samples: int | None
    hours: float | None
    concurrent: int
    fleet: Fleet

    def amount(self, runs: float, in_turn: float) -> Amount:
        """Return what `runs` whole trials need, of which `in_turn` run one after the other on all machines."""
        hours = None if self.hours is None else self.hours * in_turn
        return Amount(
            runs=runs,
            samples=None if self.samples is None else round(runs * self.samples),
            hours=hours,
            gpu_hours=None if self.hours is None else runs * self.hours * self.needs.gpus,
            usd={pricing: usd_of(self.fleet, pricing, hours) for pricing in PRICINGS},
        )

    def per_trial(self) -> Amount:
        """Return what one of several concurrent trials needs, with its share of the machines' cost."""
        amount = self.amount(1, 1)
        shares = {pricing: None if usd is None else usd / self.concurrent for pricing, usd in amount.usd.items()}
        return replace(amount, usd=shares)


UNITS = {"hours": "{:,.2f} h", "gpu_hours": "{:,.1f} GPU-hours", "usd": "${:,.2f}"}


def estimate_findings(sweep: ResolvedSweep, estimate: SweepEstimate) -> Iterator[Finding]:
    """Yield whether trials fit, and how the estimate compares with each limit of the budget.

    Args:
        sweep: the sweep.
        estimate: its estimate.
    """
    yield _check_room(estimate)
    for key, limit in sweep.sweep.budget:
        if limit is not None:
            yield _check_budget(key, limit, estimate)


def _check_room(estimate: SweepEstimate) -> Finding:
    needs, side = estimate.needs, estimate.side_by_side
    each = f"{needs.cpus:.4g} CPUs" + (f" and {needs.gpus} GPUs" if needs.gpus else "")
    if side == 0:
        fix = "Lower scale.workers, scale.cpus_per_worker or stream.reader_cpus (overrides), or name larger machines."
        return failed("room", f"a trial needs {each}, and there are not so many {estimate.bound}", fix)
    return passed("room", f"a trial needs {each}; {side} of {estimate.trials} run side by side ({estimate.bound})")


def _check_budget(key: str, limit: float, estimate: SweepEstimate) -> Finding:
    budget_text = f"budget.{key} is {UNITS[key].format(limit)}"
    likely, whole = _need(key, estimate.likely), _need(key, estimate.whole)
    if likely is None or whole is None:
        unknown = "what the machines cost" if key == "usd" else "how fast trials are"
        fix = "Nothing: the sweep stops at the limit, and its trials with a checkpoint."
        if key == "usd":
            fix = "Name the prices with --prices FILE; what has no known price is left out of the budget."
        return warned("budget", f"{budget_text}; {unknown} is unknown here", fix)
    needs = f"the sweep needs {UNITS[key].format(likely)}"
    if likely < whole:
        needs += f", {UNITS[key].format(whole)} if no trial is stopped early"
    needs += " (estimate)"
    if likely <= limit:
        return passed("budget", f"{budget_text}; {needs}")
    enough = int(estimate.trials * limit / likely)
    fix = f"Raise budget.{key}, lower search.trials, or shorten the trials (length); it can be continued later."
    lasts = f"lasts for about {enough} of {estimate.trials} trials" if enough else "does not last for a whole trial"
    return warned("budget", f"{budget_text}, and {needs}; it {lasts}", fix)


def _need(key: str, amount: Amount) -> float | None:
    return {"hours": amount.hours, "gpu_hours": amount.gpu_hours, "usd": amount.usd["file"]}[key]
