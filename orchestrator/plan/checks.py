"""Derives all preflight findings and estimates from a recipe, a cluster and measurements. Pure: no I/O.

Checked are the batch, what the workload says of the run's length, the budget, the cluster's capacity, and whether
paths mean the same on all of its machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.config.cluster import Cluster
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import Recipe
from orchestrator.config.recipe_paths import SQLITE
from orchestrator.plan.estimates import Scenario, Speed, check_decoding, estimate_scenario, worker_speed
from orchestrator.plan.machines import Fleet, NodeType, check_prices, fleet_for, node_types_of
from orchestrator.plan.memory import check_gpu_memory, check_main_memory
from orchestrator.plan.observations import Observations
from orchestrator.stream.decoder import Node, can_read


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is assumed where nothing was measured.

    Args:
        mfu: model FLOPs utilization: the share of a GPU's peak that training reaches.
        samples_per_s: of one worker, as the user measured them; None to estimate them.
        cpus_here: CPUs of this machine, which is all that a local cluster consists of.
    """

    mfu: float
    samples_per_s: float | None
    cpus_here: int


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """The findings and estimates for a run.

    Args:
        findings: of all checks, in the order in which they are shown.
        node_types: of the cluster.
        scenarios: at the minimum and, where it differs, at the maximum number of workers.
        speed: of one worker; None when unknown.
        steps: of the whole run; None when unknown.
        samples: of the whole run; None when unknown.
    """

    findings: tuple[Finding, ...]
    node_types: tuple[NodeType, ...]
    scenarios: tuple[Scenario, ...]
    speed: Speed | None
    steps: int | None
    samples: int | None


def preflight_result(
    resolved: ResolvedRecipe,
    cluster: Cluster,
    prices: PriceTable,
    observations: Observations,
    assumptions: Assumptions,
) -> PreflightResult:
    """Return the findings and estimates for a run.

    Args:
        resolved: the recipe.
        cluster: the cluster.
        prices: what machines cost.
        observations: what was measured.
        assumptions: for what was not measured.
    """
    recipe, node_types = resolved.recipe, node_types_of(cluster, prices, assumptions.cpus_here)
    speed = worker_speed(recipe, observations, node_types, assumptions.mfu, assumptions.samples_per_s)
    samples = _samples(recipe, observations.epoch_samples)
    remaining = None if samples is None else max(0, samples - observations.done_steps * recipe.batch.samples)
    largest = fleet_for(node_types, recipe.scale.max_workers, recipe, recipe.stream.reader_cpus)
    scenarios = tuple(
        estimate_scenario(recipe, node_types, workers, speed, observations.decode_cpu_s, remaining)
        for workers in _worker_counts(recipe, largest)
    )
    steps = None if samples is None else math.ceil(samples / recipe.batch.samples)
    findings = (
        *check_batch(resolved),
        *check_training(resolved, steps),
        *check_room(recipe, node_types, largest),
        *_check_memory(recipe, node_types, observations),
        *_check_decoding(scenarios[-1], observations),
        *check_places(recipe, cluster),
        *check_prices(node_types, prices),
        *_check_budget(recipe, scenarios),
    )
    return PreflightResult(findings, tuple(node_types), scenarios, speed, steps, samples)


def _samples(recipe: Recipe, epoch_samples: int | None) -> int | None:
    if epoch_samples is None and recipe.length.steps is None:
        return None
    return recipe.samples(epoch_samples or 0)


def _worker_counts(recipe: Recipe, largest: Fleet) -> list[int]:
    """Return the numbers of workers to plan for: the minimum, and the maximum that the cluster holds."""
    fewest = recipe.scale.min_workers
    return sorted({fewest, max(fewest, largest.workers)})


def _check_memory(recipe: Recipe, node_types: Sequence[NodeType], observations: Observations) -> Iterator[Finding]:
    if observations.footprint is None:
        return
    check = check_gpu_memory if recipe.scale.use_gpu else check_main_memory
    yield from check(observations.footprint, recipe, node_types)


def _check_decoding(largest: Scenario, observations: Observations) -> Iterator[Finding]:
    if largest.wanted_per_s is None or observations.decode_cpu_s is None:
        fix = "Give --samples-per-s, or plan where torch and the recipe's files are."
        yield warned("data keeps up", "not estimated: the speed of the workers, or of decoding, is unknown", fix)
    elif not math.isinf(largest.decoding_cpus):
        yield check_decoding(
            largest.wanted_per_s,
            largest.decoding_cpus,
            observations.decode_cpu_s,
            largest.workers,
            observations.where,
        )


def _check_budget(recipe: Recipe, scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    budget = getattr(recipe, "budget", None)
    limits: Mapping[str, float | None] = {key: getattr(budget, key, None) for key in ("usd", "hours")}
    yield from check_budget(limits["usd"], limits["hours"], scenarios)


BATCH_NAME = "batch"


def check_batch(resolved: ResolvedRecipe) -> Iterator[Finding]:
    """Yield the workload's own findings about the batch and its queue, and how evenly workers share it."""
    recipe, batch = resolved.recipe, resolved.recipe.batch
    shape = f"{batch.micro_batches} micro-batches of {batch.micro_batch_size}, {batch.samples} samples a step"
    problems = list(resolved.entry.check(resolved.workload, batch.shape))
    for problem in problems:
        yield failed(BATCH_NAME, f"{problem.key}: {problem.message}", f"Change {problem.key} or the batch ({shape}).")
    if problems:
        return
    yield passed(BATCH_NAME, f"{shape}; the workload {recipe.workload} takes it, with queue and objectives as they are")
    workers = recipe.scale.max_workers
    rounds = math.ceil(batch.micro_batches / workers)
    if rounds * workers != batch.micro_batches:
        idle = 1 - batch.micro_batches / (rounds * workers)
        fix = "Let scale.workers divide batch.micro_batches."
        yield warned(
            BATCH_NAME, f"{batch.micro_batches} micro-batches on {workers} workers leave {idle:.0%} of them idle", fix
        )


TRAINING_NAME = "training"


def check_training(resolved: ResolvedRecipe, steps: int | None) -> Iterator[Finding]:
    """Yield what the workload says that a run of this length will suffer from; nothing while the length is unknown.

    Args:
        resolved: the recipe.
        steps: of the whole run.
    """
    for problem in () if steps is None else resolved.warnings(steps):
        fix = f"Nothing, if that is meant; otherwise change {problem.key} or the run's length."
        yield warned(TRAINING_NAME, f"{problem.key}: {problem.message}", fix)


BUDGET_NAME = "budget"


def check_budget(usd: float | None, hours: float | None, scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    """Yield how the recipe's limits compare with the estimates.

    Args:
        usd: the limit in US dollars; None for no limit.
        hours: the limit in hours; None for no limit.
        scenarios: at the minimum and at the maximum number of workers.
    """
    if usd is not None:
        yield _compare("usd", usd, [scenario.usd["file"] for scenario in scenarios], "${:,.0f}")
    if hours is not None:
        yield _compare("hours", hours, [scenario.hours for scenario in scenarios], "{:,.1f} h")


def _compare(key: str, limit: float, estimates: Sequence[float | None], form: str) -> Finding:
    known = [estimate for estimate in estimates if estimate is not None]
    budget = f"budget.{key} is {form.format(limit)}"
    if not known:
        fix = "Nothing: the run stops by itself, with a checkpoint, when the limit is reached."
        return warned(BUDGET_NAME, f"{budget}; what the run needs is unknown", fix)
    needs = " to ".join(dict.fromkeys(form.format(estimate) for estimate in (min(known), max(known))))
    if max(known) <= limit:
        return passed(BUDGET_NAME, f"{budget}; the run needs {needs} (estimate)")
    fix = f"Raise budget.{key}, shorten the run (length), or resume it later; it stops with a checkpoint at the limit."
    return warned(BUDGET_NAME, f"{budget}, and the run needs {needs} (estimate)", fix)


ROOM_NAME = "room"
LARGER = "or let the cluster's file have more or larger machines."


def check_room(recipe: Recipe, node_types: Sequence[NodeType], largest: Fleet) -> Iterator[Finding]:
    """Yield whether the run fits the cluster when all machines that it may have are up.

    Args:
        recipe: the recipe.
        node_types: of the cluster.
        largest: the machines for the recipe's maximum number of workers, as far as the cluster has them.
    """
    if (problem := _too_few_gpus(recipe, node_types) or _too_few_cpus(recipe, node_types, largest)) is not None:
        yield problem
        return
    yield _fits(recipe, largest)
    yield from _unknown_cpus(node_types)
    yield from _idle_gpus(recipe, largest)


def _too_few_gpus(recipe: Recipe, node_types: Sequence[NodeType]) -> Finding | None:
    gpus = sum(node_type.group.gpus * node_type.group.most for node_type in node_types)
    workers = recipe.scale.min_workers
    if not recipe.scale.use_gpu or gpus >= workers:
        return None
    if not gpus:
        fix = "Set scale.use_gpu to false, or name a cluster with GPUs."
        return failed(ROOM_NAME, "scale.use_gpu: the cluster has no GPUs", fix)
    fix = f"Lower scale.workers to {int(gpus)} or less, {LARGER}"
    return failed(
        ROOM_NAME, f"scale.workers: {workers} workers need {workers} GPUs; the cluster has {gpus:g} at most", fix
    )


def _too_few_cpus(recipe: Recipe, node_types: Sequence[NodeType], largest: Fleet) -> Finding | None:
    scale, workers = recipe.scale, recipe.scale.min_workers
    if largest.workers < workers:
        each = f"{scale.cpus_per_worker:g} CPUs{' and a GPU' if scale.use_gpu else ''} each"
        problem = f"scale.workers: {workers} workers with {each} are needed; the cluster holds {largest.workers}"
        return failed(ROOM_NAME, problem, f"Lower scale.workers or scale.cpus_per_worker, {LARGER}")
    nodes = [Node(each.cpus, each.group.gpus) for each in node_types for _ in range(each.group.most)]
    if any(math.isinf(node.cpus) for node in nodes):
        return None
    cpus, needed = sum(node.cpus for node in nodes), workers * scale.cpus_per_worker + recipe.stream.reader_cpus
    if needed > cpus:
        fix = f"Lower stream.reader_cpus, scale.workers or scale.cpus_per_worker, {LARGER}"
        problem = (
            f"{workers} workers x {scale.cpus_per_worker:g} CPUs and stream.reader_cpus {recipe.stream.reader_cpus:g} "
            f"need {needed:g} CPUs; the cluster has {cpus:g} at most"
        )
        return failed(ROOM_NAME, problem, fix)
    if not can_read(nodes, workers, scale.cpus_per_worker):
        problem = "scale.cpus_per_worker: the workers leave no machine a whole CPU to read samples with"
        return failed(ROOM_NAME, f"{problem}, and the run would wait forever", f"Lower it, {LARGER}")
    return None


def _fits(recipe: Recipe, largest: Fleet) -> Finding:
    scale = recipe.scale
    if largest.workers < scale.max_workers:
        fix = f"Nothing, if that is meant; otherwise write scale.workers: [{scale.min_workers}, {largest.workers}]."
        return warned(ROOM_NAME, f"the cluster holds {largest.workers} of up to {scale.max_workers} workers", fix)
    return passed(
        ROOM_NAME, f"{scale.max_workers} workers find room, with {largest.spare_cpus:g} CPUs left for reading"
    )


def _unknown_cpus(node_types: Sequence[NodeType]) -> Iterator[Finding]:
    for node_type in node_types:
        if math.isinf(node_type.cpus) and node_type.group.most:
            yield warned(
                ROOM_NAME,
                f"{node_type.group.name}: the number of CPUs of its machines is unknown; they are assumed to suffice",
                "Name its machine's type or its CPUs in the cluster's file.",
            )


def _idle_gpus(recipe: Recipe, largest: Fleet) -> Iterator[Finding]:
    gpus = sum(allocation.node_type.group.gpus * allocation.machines for allocation in largest.allocations)
    used = largest.workers if recipe.scale.use_gpu else 0
    if gpus > used and not recipe.scale.use_gpu:
        yield warned(ROOM_NAME, f"scale.use_gpu is false, and {gpus:g} GPUs stand idle", "Set scale.use_gpu to true.")
    elif gpus > used:
        fix = f"Raise scale.workers to {int(gpus)} (batch.micro_batches is {recipe.batch.micro_batches})."
        yield warned(ROOM_NAME, f"{gpus - used:g} of {gpus:g} GPUs that are paid for stand idle", fix)


PLACES_NAME = "places"

PLACEHOLDER_URI = "not-named-yet"
"""The training data's URI in a recipe that names none, when a plan is made all the same."""


def check_places(recipe: Recipe, cluster: Cluster) -> Iterator[Finding]:
    """Yield the paths that would be written or looked up on the wrong machine.

    On a cluster, a job runs in a folder that is deleted when the job ends, and every machine has a disk of its own.
    """
    if cluster.kind == "local":
        return
    data = [(f"data.mix.{number}.uri", source.uri) for number, source in enumerate(recipe.data.mix or ())]
    data += [(f"data.{key}", uri) for key in ("train", "held_out") if (uri := getattr(recipe.data, key)) is not None]
    for key, uri in (*data, ("storage.uri", recipe.storage.uri)):
        if uri == PLACEHOLDER_URI:
            yield warned("data", "the recipe names no training data", "Set data.train before the run is submitted.")
        elif urlsplit(uri).scheme in ("", "file"):
            yield _check_local_path(key, uri.removeprefix("file://"))
    if recipe.tracking.uri.startswith(SQLITE):
        yield _check_sqlite(recipe.tracking.uri, sum(group.most for group in cluster.groups))


def _check_local_path(key: str, path: str) -> Finding:
    if not Path(path).expanduser().is_absolute():
        fix = "Name object storage (s3://, gs://), or the full path of a disk that all machines share."
        problem = f"{key}: {path} is in the job's own folder, which is deleted when the job ends"
        return failed(PLACES_NAME, problem, fix)
    fix = "Make sure that all machines share that disk, or name object storage (s3://, gs://)."
    return warned(PLACES_NAME, f"{key}: {path} is a path, which every machine looks for on its own disk", fix)


def _check_sqlite(uri: str, machines: int) -> Finding:
    path = uri.removeprefix(SQLITE)
    fix = "Name an MLflow server (http://...) or a database server; MLFLOW_TRACKING_URI can hold a password."
    if not path.startswith("/"):
        problem = f"tracking.uri: {uri} is in the job's own folder, which is deleted when the job ends"
        return failed(PLACES_NAME, problem, fix)
    several = f"; the cluster has up to {machines}" if machines > 1 else ""
    return warned(
        PLACES_NAME, f"tracking.uri: {uri} is a file on one machine's disk{several}, and is lost with it", fix
    )
