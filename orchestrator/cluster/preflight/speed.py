"""How fast a run will be, and whether decoding keeps up: pure estimates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cluster.preflight.fleet import Fleet
from orchestrator.cluster.preflight.machines import Kind
from orchestrator.cluster.preflight.observations import Observations
from orchestrator.config.cluster import Footprint
from orchestrator.config.prices import Accelerator
from orchestrator.config.recipe import Precision, Recipe
from orchestrator.stream.decoder import THREADS_THAT_PAY, decoded_share

FLOAT32_TFLOPS: Mapping[str, float] = {
    "A10G": 31.2,
    "A100": 19.5,
    "B200": 75.0,
    "H100": 67.0,
    "H200": 67.0,
    "L4": 30.3,
    "L40S": 91.6,
    "T4": 8.1,
    "V100": 15.7,
}
"""Rated peak in float32 without tensor cores, from NVIDIA's data sheets, by a GPU's name up to its memory's size.

torch uses no tf32 unless told to.
"""

FLOAT32_SHARE = 1 / 16
"""Share of the bfloat16 peak that is assumed in float32 for a GPU that is not listed: that of an A100."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one worker trains when data does not keep it waiting.

    Args:
        samples_per_s: of one worker.
        source: where the figure comes from, in a few words.
        most: that all workers together do, however many there are; on CPUs they may share those there are.
    """

    samples_per_s: float
    source: str
    most: float = math.inf

    def of(self, recipe: Recipe, workers: int) -> float:
        """Return how fast several workers are; some wait where micro-batches cannot be shared out evenly."""
        return min(self.samples_per_s * sharing_of(recipe, workers), self.most)


def worker_speed(
    recipe: Recipe, seen: Observations, kinds: Sequence[Kind], mfu: float, measured: float | None
) -> Speed | None:
    """Return how fast one worker is; None when nothing is known.

    Args:
        recipe: the recipe.
        seen: what was measured.
        kinds: the cluster's machines.
        mfu: share of a GPU's peak that training is assumed to reach.
        measured: samples per second and worker that the user has measured.
    """
    if measured is not None:
        return Speed(measured, "as given with --samples-per-s")
    if seen.past_samples_per_s and seen.past_workers:
        rate = seen.past_samples_per_s / sharing_of(recipe, seen.past_workers)
        return Speed(rate, f"from the run's own log, on {seen.past_workers} workers")
    if seen.footprint is None:
        return None
    if recipe.scale.use_gpu:
        return _on_gpu(seen.footprint, recipe.precision, kinds, mfu)
    return _on_cpu(seen.footprint, recipe, sum(one.cpus * one.group.most for one in kinds if one.group.most))


def _on_gpu(footprint: Footprint, precision: Precision, kinds: Sequence[Kind], mfu: float) -> Speed | None:
    types = {one.accelerator.name: one.accelerator for one in kinds if one.accelerator and one.group.most}
    if not types:
        return None
    slowest = min(types.values(), key=lambda one: peak_tflops(one, precision))
    peak = peak_tflops(slowest, precision)
    return Speed(
        peak * 1e12 * mfu / footprint.flop_per_sample,
        f"assumed: {mfu:.0%} of the {slowest.name}'s {peak:g} TFLOP/s in {precision}, "
        f"{footprint.flop_per_sample / 1e9:.3g} GFLOP a sample as counted",
    )


def peak_tflops(accelerator: Accelerator, precision: Precision) -> float:
    """Return a GPU's rated peak in TFLOP/s; in float64, half of float32's."""
    if precision == "bfloat16":
        return accelerator.tflops_bfloat16
    float32 = FLOAT32_TFLOPS.get(accelerator.name.split("-")[0], accelerator.tflops_bfloat16 * FLOAT32_SHARE)
    return float32 / 2 if precision == "float64" else float32


def _on_cpu(footprint: Footprint, recipe: Recipe, cpus: float) -> Speed | None:
    if footprint.cpu_samples_per_s is None:
        return None
    per_cpu, each = footprint.cpu_samples_per_s / footprint.cpus, max(recipe.scale.cpus_per_worker, 1.0)
    source = f"measured: {per_cpu:.3g} samples/s and CPU, on a machine with {footprint.cpus}"
    return Speed(per_cpu * each, source, most=per_cpu * cpus)


def sharing_of(recipe: Recipe, workers: int) -> float:
    """Return how many workers' worth of work several do when micro-batches cannot be shared out evenly."""
    return recipe.batch.micro_batches / math.ceil(recipe.batch.micro_batches / workers)


def decoding_cpus(recipe: Recipe, fleet: Fleet) -> float:
    """Return how many CPUs decode samples, on machines and in workers, as `stream.decode_on` shares it out."""
    scale, stream = recipe.scale, recipe.stream
    threads = stream.decode_threads or max(1, int(scale.cpus_per_worker))
    in_workers = fleet.workers * min(threads, max(scale.cpus_per_worker, 1.0), THREADS_THAT_PAY)
    if math.isinf(fleet.spare_cpus):
        return in_workers if stream.decode_on == "workers" else math.inf
    share = decoded_share(stream.decode_on, fleet.nodes, fleet.workers, scale.cpus_per_worker, threads)
    limits = [cpus / part for cpus, part in ((fleet.spare_cpus, share), (in_workers, 1 - share)) if part > 0]
    return max(0.0, min(limits))
