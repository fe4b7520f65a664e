"""Estimates of a run at one number of workers: speed, machines, hours, dollars, and whether decoding keeps up.

The speed is that of a worker's GPU or CPU, or that of the run so far, from its metric log.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from orchestrator.cluster.findings import Finding, passed, warned
from orchestrator.config.cluster import Footprint
from orchestrator.config.prices import Accelerator
from orchestrator.config.recipe import Precision, Recipe, ScaleSection
from orchestrator.plan.machines import Fleet, NodeType, fleet_for
from orchestrator.plan.observations import Observations
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.decoder import THREADS_THAT_PAY, decoded_share
from orchestrator.track.analysis import step_seconds
from orchestrator.track.metric_log import EventLog, read_metric_log

Pricing = Literal["file", "spot", "on-demand"]
"""file: every machine for the market that the cluster's file names; spot: all but the head on spot; on-demand: all."""

PRICINGS: tuple[Pricing, ...] = ("file", "spot", "on-demand")


@dataclass(frozen=True, slots=True)
class Scenario:
    """The estimates for a run at one number of workers; None where unknown.

    Args:
        workers: training workers.
        machines: nodes of each group, by its name.
        samples_per_s: throughput of the run, bounded by the workers or by decoding.
        wanted_per_s: samples per second of the workers when they never wait for data.
        decoding_cpus: CPUs that decode; infinite when unknown.
        hours: of the remaining steps.
        usd: by how machines are paid for.
    """

    workers: int
    machines: Mapping[str, int]
    samples_per_s: float | None
    wanted_per_s: float | None
    decoding_cpus: float
    hours: float | None
    usd: Mapping[Pricing, float | None]


def estimate_scenario(
    recipe: Recipe,
    node_types: Sequence[NodeType],
    workers: int,
    speed: Speed | None,
    decode_cpu_s: float | None,
    samples: int | None,
) -> Scenario:
    """Estimate a run at one number of workers.

    Args:
        recipe: the recipe.
        node_types: of the cluster.
        workers: training workers.
        speed: of one of them; None when unknown.
        decode_cpu_s: CPU seconds of decoding one sample; None when unknown.
        samples: that remain to train on; None when unknown.
    """
    demand = speed.of_workers(recipe, workers) if speed else None
    fleet = fleet_for(node_types, workers, recipe, reading_cpus(recipe, demand, decode_cpu_s))
    cpus = decoding_cpus(recipe, fleet)
    samples_per_s = demand
    if demand is not None and decode_cpu_s:
        samples_per_s = min(demand, cpus / decode_cpu_s)
    hours = samples / samples_per_s / 3600 if samples is not None and samples_per_s else None
    return Scenario(
        workers=workers,
        machines={each.node_type.group.name: each.machines for each in fleet.allocations if each.machines},
        samples_per_s=samples_per_s,
        wanted_per_s=demand,
        decoding_cpus=cpus,
        hours=hours,
        usd={pricing: usd_of(fleet, pricing, hours) for pricing in PRICINGS},
    )


def reading_cpus(recipe: Recipe, demand: float | None, decode_cpu_s: float | None) -> float:
    """Return the CPUs to leave for reading: `stream.reader_cpus`, and more where decoding needs it.

    Args:
        recipe: the recipe.
        demand: samples per second of its workers; None when unknown.
        decode_cpu_s: CPU seconds of decoding one sample; None when unknown.
    """
    reserved = recipe.stream.reader_cpus
    if demand is None or decode_cpu_s is None or recipe.stream.decode_on == "workers":
        return reserved
    return max(reserved, MARGIN * demand * decode_cpu_s)


def usd_of(fleet: Fleet, pricing: Pricing, hours: float | None) -> float | None:
    """Return the US dollars that a fleet costs for some hours; None when the hours or a price are unknown."""
    per_hour = fleet.usd_per_hour(lambda node_type: _price(node_type, pricing))
    return None if hours is None or per_hour is None else hours * per_hour


def _price(node_type: NodeType, pricing: Pricing) -> float | None:
    if pricing == "file" or node_type.group.market == "owned":
        return node_type.usd_per_hour
    if node_type.group.head:
        return node_type.prices["on-demand" if pricing == "on-demand" else node_type.group.market]
    return node_type.prices[pricing]


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
"""Rated float32 peak without tensor cores, from NVIDIA's data sheets, by a GPU's name without its memory size.

TF32 is not counted: it is off in torch by default.
"""

FLOAT32_SHARE = 1 / 16
"""Ratio of float32 to bfloat16 peak that is assumed for a GPU that is not listed: that of an A100."""


@dataclass(frozen=True, slots=True)
class Speed:
    """The throughput of one worker that never waits for data.

    Args:
        samples_per_s: of one worker.
        source: where the value comes from, in a few words.
        most: upper bound in samples per second for all workers together: on CPUs, that of all the cluster's CPUs.
    """

    samples_per_s: float
    source: str
    most: float = math.inf

    def of_workers(self, recipe: Recipe, workers: int) -> float:
        """Return the samples per second of several workers; some idle where they cannot share micro-batches evenly."""
        return min(self.samples_per_s * effective_workers(recipe, workers), self.most)


def worker_speed(
    recipe: Recipe, observations: Observations, node_types: Sequence[NodeType], mfu: float, measured: float | None
) -> Speed | None:
    """Return the speed of one worker, by the most reliable source there is; None when there is none.

    Args:
        recipe: the recipe.
        observations: what was measured.
        node_types: of the cluster.
        mfu: model FLOPs utilization: the share of a GPU's peak that training is assumed to reach.
        measured: samples per second and worker that the user has measured; None when not given.
    """
    if measured is not None:
        return Speed(measured, "as given with --samples-per-s")
    if observations.past_samples_per_s and observations.past_workers:
        rate = observations.past_samples_per_s / effective_workers(recipe, observations.past_workers)
        return Speed(rate, f"from the run's own log, on {observations.past_workers} workers")
    if observations.footprint is None:
        return None
    if recipe.scale.use_gpu:
        return _gpu_speed(observations.footprint, recipe.precision, node_types, mfu)
    cpus = sum(node_type.cpus * node_type.group.most for node_type in node_types if node_type.group.most)
    return _cpu_speed(observations.footprint, recipe, cpus)


def _gpu_speed(footprint: Footprint, precision: Precision, node_types: Sequence[NodeType], mfu: float) -> Speed | None:
    gpus = {each.accelerator.name: each.accelerator for each in node_types if each.accelerator and each.group.most}
    if not gpus:
        return None
    slowest = min(gpus.values(), key=lambda gpu: peak_tflops(gpu, precision))
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


def _cpu_speed(footprint: Footprint, recipe: Recipe, cpus: float) -> Speed | None:
    if footprint.cpu_samples_per_s is None:
        return None
    per_cpu, each = footprint.cpu_samples_per_s / footprint.cpus, max(recipe.scale.cpus_per_worker, 1.0)
    source = f"measured: {per_cpu:.3g} samples/s and CPU, on a machine with {footprint.cpus}"
    return Speed(per_cpu * each, source, most=per_cpu * cpus)


def effective_workers(recipe: Recipe, workers: int) -> float:
    """Return the number of fully busy workers that have the same throughput, as uneven shares leave some idle."""
    return recipe.batch.micro_batches / math.ceil(recipe.batch.micro_batches / workers)


def decoding_cpus(recipe: Recipe, fleet: Fleet) -> float:
    """Return how many CPUs decode samples, in reading tasks and in workers, as `stream.decode_on` splits it."""
    scale, stream = recipe.scale, recipe.stream
    threads = stream.decode_threads or max(1, int(scale.cpus_per_worker))
    in_workers = fleet.workers * min(threads, max(scale.cpus_per_worker, 1.0), THREADS_THAT_PAY)
    if math.isinf(fleet.spare_cpus):
        return in_workers if stream.decode_on == "workers" else math.inf
    share = decoded_share(stream.decode_on, fleet.nodes, fleet.workers, scale.cpus_per_worker, threads)
    limits = [cpus / part for cpus, part in ((fleet.spare_cpus, share), (in_workers, 1 - share)) if part > 0]
    return max(0.0, min(limits))


NAME = "data keeps up"

MARGIN = 1.2
"""Factor by which decoding should be faster than training: reading and sending take CPU time as well."""


def check_decoding(needed_per_s: float, cpus: float, cpu_s: float, workers: int, where: str) -> Finding:
    """Compare the throughput of the workers with that of the CPUs that decode.

    Args:
        needed_per_s: samples per second of all workers.
        cpus: that decode.
        cpu_s: CPU seconds of decoding one sample.
        workers: how many train.
        where: the machine that decoding was timed on.
    """
    decoded_per_s = cpus / cpu_s
    summary = (
        f"{workers} workers train on {needed_per_s:,.0f} samples/s; {cpus:,.0f} CPUs decode {decoded_per_s:,.0f} "
        f"({1000 * cpu_s:.1f} CPU-s per 1,000, timed on {where} with pictures of 500x375) (estimate)"
    )
    if decoded_per_s >= MARGIN * needed_per_s:
        return passed(NAME, summary)
    lacking = MARGIN * needed_per_s * cpu_s - cpus
    fix = f"About {lacking:,.0f} more CPUs would do: let the cluster's file have more or larger machines without GPUs."
    if decoded_per_s >= needed_per_s:
        return warned(NAME, f"{summary}, which is close", fix)
    return warned(NAME, f"{summary}, so the workers will wait for data", fix)


NEWEST_STEPS = 200


@dataclass(frozen=True, slots=True)
class PastSpeed:
    """The speed of a run in its newest steps.

    Args:
        next_step: the step at which the run resumes.
        samples_per_s: median over its newest steps, without checkpoints and evaluations; None when it has none.
        workers: training workers of these steps; None when unknown.
    """

    next_step: int
    samples_per_s: float | None
    workers: int | None


def past_speed(run: RunFolder, scale: ScaleSection) -> PastSpeed:
    """Return the speed of a run by its metric log.

    Args:
        run: the run.
        scale: of the resumed run; without events in the log, a fixed number of workers is taken to be that of the past.

    Raises:
        StorageError: the log cannot be read.
        MetricLogError: it is damaged.
    """
    newest = deque(read_metric_log(run.metrics), NEWEST_STEPS)
    rates = [line.samples / busy for line in newest if (busy := step_seconds(line.seconds)) > 0]
    events = EventLog(run.events).events
    fixed = scale.min_workers if scale.min_workers == scale.max_workers else None
    workers = events[-1].workers if events else fixed
    return PastSpeed(run.newest_step(), median(rates) if rates else None, workers)
