"""All findings and estimates that follow from a recipe, a cluster and what was measured: no look at anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cluster.findings import Finding, warned
from orchestrator.cluster.preflight.batch import check_batch
from orchestrator.cluster.preflight.budget import check_budget
from orchestrator.cluster.preflight.costs import Scenario, scenario
from orchestrator.cluster.preflight.decoding import check_decoding
from orchestrator.cluster.preflight.fleet import Fleet, fleet_for
from orchestrator.cluster.preflight.machines import Kind, check_prices, kinds_of
from orchestrator.cluster.preflight.memory import check_gpu_memory, check_main_memory
from orchestrator.cluster.preflight.observations import Observations
from orchestrator.cluster.preflight.places import check_places
from orchestrator.cluster.preflight.room import check_room
from orchestrator.cluster.preflight.speed import Speed, worker_speed
from orchestrator.config.cluster import Cluster
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is assumed where nothing was measured.

    Args:
        mfu: share of a GPU's peak that training reaches.
        samples_per_s: of one worker, as the user measured them; None to work them out.
        cpus_here: CPUs of this machine, which a local cluster consists of.
    """

    mfu: float
    samples_per_s: float | None
    cpus_here: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to expect of a run.

    Args:
        findings: of all checks, in the order in which a reader wants them.
        kinds: the cluster's machines.
        scenarios: at the fewest and, when they are more, at the most workers.
        speed: of one worker; None when unknown.
        steps: of the whole run; None when unknown.
        samples: of the whole run; None when unknown.
    """

    findings: tuple[Finding, ...]
    kinds: tuple[Kind, ...]
    scenarios: tuple[Scenario, ...]
    speed: Speed | None
    steps: int | None
    samples: int | None


def judge(
    resolved: ResolvedRecipe, cluster: Cluster, prices: PriceTable, seen: Observations, assumed: Assumptions
) -> Judgement:
    """Return what to expect of a run.

    Args:
        resolved: the recipe.
        cluster: the cluster.
        prices: what machines cost.
        seen: what was measured.
        assumed: what stands in for what was not.
    """
    recipe, kinds = resolved.recipe, kinds_of(cluster, prices, assumed.cpus_here)
    speed = worker_speed(recipe, seen, kinds, assumed.mfu, assumed.samples_per_s)
    samples = _samples(recipe, seen.epoch_samples)
    left = None if samples is None else max(0, samples - seen.done_steps * recipe.batch.samples)
    counts = _worker_counts(recipe, kinds)
    scenarios = tuple(scenario(recipe, kinds, each, speed, seen.decode_cpu_s, left) for each in counts)
    largest = fleet_for(kinds, recipe.scale.most_workers, recipe, recipe.stream.reader_cpus)
    findings = (
        *check_batch(resolved),
        *check_room(recipe, kinds, largest),
        *_memory(recipe, kinds, seen),
        *_decoding(scenarios[-1], seen),
        *check_places(recipe, cluster),
        *check_prices(kinds, prices),
        *_budget(recipe, scenarios),
    )
    steps = None if samples is None else math.ceil(samples / recipe.batch.samples)
    return Judgement(findings, tuple(kinds), scenarios, speed, steps, samples)


def _samples(recipe: Recipe, epoch_samples: int | None) -> int | None:
    if epoch_samples is None and recipe.length.steps is None:
        return None
    return recipe.samples(epoch_samples or 0)


def _worker_counts(recipe: Recipe, kinds: Sequence[Kind]) -> list[int]:
    """Return the numbers of workers to plan for: the fewest, and the most that the cluster has room for."""
    scale = recipe.scale
    largest: Fleet = fleet_for(kinds, scale.most_workers, recipe, recipe.stream.reader_cpus)
    return sorted({scale.fewest_workers, max(scale.fewest_workers, largest.workers)})


def _memory(recipe: Recipe, kinds: Sequence[Kind], seen: Observations) -> Iterator[Finding]:
    if seen.footprint is None:
        return
    check = check_gpu_memory if recipe.scale.use_gpu else check_main_memory
    yield from check(seen.footprint, recipe, kinds)


def _decoding(largest: Scenario, seen: Observations) -> Iterator[Finding]:
    if largest.wanted_per_s is None or seen.decode_cpu_s is None:
        fix = "Give --samples-per-s, or plan where torch and the recipe's files are."
        yield warned("data keeps up", "not estimated: how fast the workers train, or decoding is, is unknown", fix)
    elif not math.isinf(largest.decoding_cpus):
        yield check_decoding(
            largest.wanted_per_s, largest.decoding_cpus, seen.decode_cpu_s, largest.workers, seen.where
        )


def _budget(recipe: Recipe, scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    budget = getattr(recipe, "budget", None)
    limits: Mapping[str, float | None] = {key: getattr(budget, key, None) for key in ("usd", "hours")}
    yield from check_budget(limits["usd"], limits["hours"], scenarios)
