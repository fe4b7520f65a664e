"""All findings and estimates that follow from a recipe, a cluster and what was measured: no look at anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.cluster.doctor.services import SQLITE
from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.config.cluster import Cluster
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import Recipe
from orchestrator.plan.estimates import Scenario, Speed, check_decoding, scenario, worker_speed
from orchestrator.plan.machines import Fleet, Kind, check_prices, fleet_for, kinds_of
from orchestrator.plan.memory import check_gpu_memory, check_main_memory
from orchestrator.plan.preflight import Observations
from orchestrator.stream.decoder import Node, can_read


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
    largest = fleet_for(kinds, recipe.scale.max_workers, recipe, recipe.stream.reader_cpus)
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
    largest: Fleet = fleet_for(kinds, scale.max_workers, recipe, recipe.stream.reader_cpus)
    return sorted({scale.min_workers, max(scale.min_workers, largest.workers)})


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


# Whether the shape of the batch is one that the workload takes, and that workers can share.


BATCH_NAME = "batch"


def check_batch(resolved: ResolvedRecipe) -> Iterator[Finding]:
    """Yield what the workload says about the batch, its queue among other things, and how it is shared out."""
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


# Whether an estimate stays within what the recipe allows to be spent.


BUDGET_NAME = "budget"


def check_budget(usd: float | None, hours: float | None, scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    """Yield how the recipe's limits compare with the estimates.

    Args:
        usd: the most dollars; None for no limit.
        hours: the most hours; None for no limit.
        scenarios: at the fewest and at the most workers.
    """
    if usd is not None:
        yield _compared("usd", usd, [each.usd["file"] for each in scenarios], "${:,.0f}")
    if hours is not None:
        yield _compared("hours", hours, [each.hours for each in scenarios], "{:,.1f} h")


def _compared(key: str, limit: float, estimates: Sequence[float | None], form: str) -> Finding:
    known = [estimate for estimate in estimates if estimate is not None]
    said = form.format(limit)
    if not known:
        fix = "Nothing: the run stops by itself, with a checkpoint, when the limit is reached."
        return warned(BUDGET_NAME, f"budget.{key} is {said}; what the run needs is unknown", fix)
    needs = " to ".join(dict.fromkeys(form.format(each) for each in (min(known), max(known))))
    if max(known) <= limit:
        return passed(BUDGET_NAME, f"budget.{key} is {said}; the run needs {needs} (estimate)")
    fix = f"Raise budget.{key}, shorten the run (length), or resume it later; it stops with a checkpoint at the limit."
    return warned(BUDGET_NAME, f"budget.{key} is {said}, and the run needs {needs} (estimate)", fix)


# Whether a cluster can ever hold a run.


ROOM_NAME = "room"
LARGER = "or let the cluster's file have more or larger machines."


def check_room(recipe: Recipe, kinds: Sequence[Kind], largest: Fleet) -> Iterator[Finding]:
    """Yield whether the cluster holds the run when all machines that it may have are there.

    Args:
        recipe: the recipe.
        kinds: the cluster's machines.
        largest: the machines for as many workers as the recipe allows, as far as the cluster has them.
    """
    if (fault := _gpu_fault(recipe, kinds) or _fault(recipe, kinds, largest)) is not None:
        yield fault
        return
    yield _fits(recipe, largest)
    yield from _unknown(kinds)
    yield from _idle_gpus(recipe, kinds, largest)


def _gpu_fault(recipe: Recipe, kinds: Sequence[Kind]) -> Finding | None:
    gpus = sum(kind.group.gpus * kind.group.most for kind in kinds)
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


def _fault(recipe: Recipe, kinds: Sequence[Kind], largest: Fleet) -> Finding | None:
    scale, workers = recipe.scale, recipe.scale.min_workers
    each = f"{scale.cpus_per_worker:g} CPUs{' and a GPU' if scale.use_gpu else ''} each"
    if largest.workers < workers:
        fix = f"Lower scale.workers or scale.cpus_per_worker, {LARGER}"
        found = f"scale.workers: {workers} workers with {each} are asked for; the cluster holds {largest.workers}"
        return failed(ROOM_NAME, found, fix)
    whole = [kind for kind in kinds for _ in range(kind.group.most)]
    if any(math.isinf(kind.cpus) for kind in whole):
        return None
    cpus, needed = sum(kind.cpus for kind in whole), workers * scale.cpus_per_worker + recipe.stream.reader_cpus
    if needed > cpus:
        fix = f"Lower stream.reader_cpus, scale.workers or scale.cpus_per_worker, {LARGER}"
        found = (
            f"{workers} workers x {scale.cpus_per_worker:g} CPUs and stream.reader_cpus {recipe.stream.reader_cpus:g} "
            f"need {needed:g} CPUs; the cluster has {cpus:g} at most"
        )
        return failed(ROOM_NAME, found, fix)
    nodes = [Node(kind.cpus, kind.group.gpus) for kind in whole]
    if not can_read(nodes, workers, scale.cpus_per_worker):
        found = "scale.cpus_per_worker: the workers leave no machine a whole CPU to read samples with"
        return failed(ROOM_NAME, f"{found}, and the run would wait for ever", f"Lower it, {LARGER}")
    return None


def _fits(recipe: Recipe, largest: Fleet) -> Finding:
    scale = recipe.scale
    if largest.workers < scale.max_workers:
        fix = f"Nothing, if that is meant; otherwise write scale.workers: [{scale.min_workers}, {largest.workers}]."
        return warned(ROOM_NAME, f"the cluster holds {largest.workers} of up to {scale.max_workers} workers", fix)
    return passed(
        ROOM_NAME, f"{scale.max_workers} workers find room, with {largest.spare_cpus:g} CPUs left for reading"
    )


def _unknown(kinds: Sequence[Kind]) -> Iterator[Finding]:
    for kind in kinds:
        if math.isinf(kind.cpus) and kind.group.most:
            yield warned(
                ROOM_NAME,
                f"{kind.group.name}: nobody says how many CPUs its machines have; they are taken to suffice",
                "Name its machine's type or its CPUs in the cluster's file.",
            )


def _idle_gpus(recipe: Recipe, kinds: Sequence[Kind], largest: Fleet) -> Iterator[Finding]:
    there = sum(berth.kind.group.gpus * berth.machines for berth in largest.berths)
    used = largest.workers if recipe.scale.use_gpu else 0
    if there > used and not recipe.scale.use_gpu:
        yield warned(ROOM_NAME, f"scale.use_gpu is false, and {there:g} GPUs stand idle", "Set scale.use_gpu to true.")
    elif there > used:
        fix = f"Raise scale.workers to {int(there)} (batch.micro_batches is {recipe.batch.micro_batches})."
        yield warned(ROOM_NAME, f"{there - used:g} of {there:g} GPUs that are paid for stand idle", fix)


# Whether the places that a recipe names mean the same on every machine of a cluster.


PLACES_NAME = "places"

UNNAMED = "not-named-yet"
"""Stands in a recipe for training data that it does not name, when a plan is made without any."""


def check_places(recipe: Recipe, cluster: Cluster) -> Iterator[Finding]:
    """Yield what would be written or looked for on the wrong machine.

    On a cluster, a job runs in a folder that goes when the job ends, and every machine has a disk of its own.
    """
    if cluster.kind == "local":
        return
    data = [(f"data.mix.{number}.uri", one.uri) for number, one in enumerate(recipe.data.mix or ())]
    data += [(f"data.{key}", uri) for key in ("train", "held_out") if (uri := getattr(recipe.data, key)) is not None]
    for key, uri in (*data, ("storage.uri", recipe.storage.uri)):
        if uri == UNNAMED:
            yield warned("data", "the recipe names no training data", "Set data.train before the run is submitted.")
        elif urlsplit(uri).scheme in ("", "file"):
            yield _local(key, uri.removeprefix("file://"))
    if recipe.tracking.uri.startswith(SQLITE):
        yield _sqlite(recipe.tracking.uri, sum(group.most for group in cluster.groups))


def _local(key: str, path: str) -> Finding:
    if not Path(path).expanduser().is_absolute():
        fix = "Name object storage (s3://, gs://), or the full path of a disk that all machines share."
        return failed(PLACES_NAME, f"{key}: {path} lies in the job's own folder, which goes when the job ends", fix)
    fix = "Make sure that all machines share that disk, or name object storage (s3://, gs://)."
    return warned(PLACES_NAME, f"{key}: {path} is a path, which every machine looks for on its own disk", fix)


def _sqlite(uri: str, machines: int) -> Finding:
    path = uri.removeprefix(SQLITE)
    fix = "Name an MLflow server (http://...) or a database server; MLFLOW_TRACKING_URI can hold a password."
    if not path.startswith("/"):
        return failed(
            PLACES_NAME, f"tracking.uri: {uri} lies in the job's own folder, which goes when the job ends", fix
        )
    several = f"; the cluster has up to {machines}" if machines > 1 else ""
    return warned(PLACES_NAME, f"tracking.uri: {uri} is a file on one machine's disk{several}, and goes with it", fix)
