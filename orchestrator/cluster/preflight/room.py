"""Whether a cluster can ever hold a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.cluster.preflight.fleet import Fleet
from orchestrator.cluster.preflight.machines import Kind
from orchestrator.config.recipe import Recipe
from orchestrator.stream.decoder import Node, can_read

NAME = "room"
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
    workers = recipe.scale.fewest_workers
    if not recipe.scale.use_gpu or gpus >= workers:
        return None
    if not gpus:
        fix = "Set scale.use_gpu to false, or name a cluster with GPUs."
        return failed(NAME, "scale.use_gpu: the cluster has no GPUs", fix)
    fix = f"Lower scale.workers to {int(gpus)} or less, {LARGER}"
    return failed(NAME, f"scale.workers: {workers} workers need {workers} GPUs; the cluster has {gpus:g} at most", fix)


def _fault(recipe: Recipe, kinds: Sequence[Kind], largest: Fleet) -> Finding | None:
    scale, workers = recipe.scale, recipe.scale.fewest_workers
    each = f"{scale.cpus_per_worker:g} CPUs{' and a GPU' if scale.use_gpu else ''} each"
    if largest.workers < workers:
        fix = f"Lower scale.workers or scale.cpus_per_worker, {LARGER}"
        found = f"scale.workers: {workers} workers with {each} are asked for; the cluster holds {largest.workers}"
        return failed(NAME, found, fix)
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
        return failed(NAME, found, fix)
    nodes = [Node(kind.cpus, kind.group.gpus) for kind in whole]
    if not can_read(nodes, workers, scale.cpus_per_worker):
        found = "scale.cpus_per_worker: the workers leave no machine a whole CPU to read samples with"
        return failed(NAME, f"{found}, and the run would wait for ever", f"Lower it, {LARGER}")
    return None


def _fits(recipe: Recipe, largest: Fleet) -> Finding:
    scale = recipe.scale
    if largest.workers < scale.most_workers:
        fix = f"Nothing, if that is meant; otherwise write scale.workers: [{scale.fewest_workers}, {largest.workers}]."
        return warned(NAME, f"the cluster holds {largest.workers} of up to {scale.most_workers} workers", fix)
    return passed(NAME, f"{scale.most_workers} workers find room, with {largest.spare_cpus:g} CPUs left for reading")


def _unknown(kinds: Sequence[Kind]) -> Iterator[Finding]:
    for kind in kinds:
        if math.isinf(kind.cpus) and kind.group.most:
            yield warned(
                NAME,
                f"{kind.group.name}: nobody says how many CPUs its machines have; they are taken to suffice",
                "Name its machine's type or its CPUs in the cluster's file.",
            )


def _idle_gpus(recipe: Recipe, kinds: Sequence[Kind], largest: Fleet) -> Iterator[Finding]:
    there = sum(berth.kind.group.gpus * berth.machines for berth in largest.berths)
    used = largest.workers if recipe.scale.use_gpu else 0
    if there > used and not recipe.scale.use_gpu:
        yield warned(NAME, f"scale.use_gpu is false, and {there:g} GPUs stand idle", "Set scale.use_gpu to true.")
    elif there > used:
        fix = f"Raise scale.workers to {int(there)} (batch.micro_batches is {recipe.batch.micro_batches})."
        yield warned(NAME, f"{there - used:g} of {there:g} GPUs that are paid for stand idle", fix)
