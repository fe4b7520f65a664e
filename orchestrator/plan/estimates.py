"""What a run takes: machines, hours and dollars, at one number of workers."""

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
from orchestrator.plan.machines import Fleet, Kind, fleet_for
from orchestrator.plan.preflight import Observations
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.decoder import THREADS_THAT_PAY, decoded_share
from orchestrator.track.analysis import step_seconds
from orchestrator.track.metric_log import EventLog, read_metric_log

Pricing = Literal["file", "spot", "on-demand"]
"""Every machine as the cluster's file has it; all but the head on spot; all on demand."""

PRICINGS: tuple[Pricing, ...] = ("file", "spot", "on-demand")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run at one number of workers; None is what nobody knows.

    Args:
        workers: training workers.
        machines: how many of each group, by its name.
        samples_per_s: that it trains on, be it the workers or the data that sets the pace.
        wanted_per_s: that the workers would train on if data never kept them waiting.
        decoding_cpus: CPUs that decode.
        hours: from the first step that is left to the last.
        usd: by how machines are paid for.
    """

    workers: int
    machines: Mapping[str, int]
    samples_per_s: float | None
    wanted_per_s: float | None
    decoding_cpus: float
    hours: float | None
    usd: Mapping[Pricing, float | None]


def scenario(
    recipe: Recipe,
    kinds: Sequence[Kind],
    workers: int,
    speed: Speed | None,
    decode_cpu_s: float | None,
    samples: int | None,
) -> Scenario:
    """Work out a run at one number of workers.

    Args:
        recipe: the recipe.
        kinds: the cluster's machines.
        workers: training workers.
        speed: of one of them.
        decode_cpu_s: CPU seconds of a sample.
        samples: that are left to train on.
    """
    wanted = speed.of(recipe, workers) if speed else None
    fleet = fleet_for(kinds, workers, recipe, reading_cpus(recipe, wanted, decode_cpu_s))
    cpus = decoding_cpus(recipe, fleet)
    pace = wanted
    if wanted is not None and decode_cpu_s:
        pace = min(wanted, cpus / decode_cpu_s)
    hours = samples / pace / 3600 if samples is not None and pace else None
    return Scenario(
        workers=workers,
        machines={one.kind.group.name: one.machines for one in fleet.berths if one.machines},
        samples_per_s=pace,
        wanted_per_s=wanted,
        decoding_cpus=cpus,
        hours=hours,
        usd={pricing: usd_of(fleet, pricing, hours) for pricing in PRICINGS},
    )


def reading_cpus(recipe: Recipe, wanted: float | None, decode_cpu_s: float | None) -> float:
    """Return the CPUs to keep for reading: what the recipe asks for, and more where decoding needs it.

    Args:
        recipe: the recipe.
        wanted: samples per second that its workers train on.
        decode_cpu_s: CPU seconds of a sample.
    """
    asked = recipe.stream.reader_cpus
    if wanted is None or decode_cpu_s is None or recipe.stream.decode_on == "workers":
        return asked
    return max(asked, MARGIN * wanted * decode_cpu_s)


def usd_of(fleet: Fleet, pricing: Pricing, hours: float | None) -> float | None:
    """Return what machines cost for some hours; None when the hours or a price are unknown."""
    per_hour = fleet.usd_per_hour(lambda kind: _price(kind, pricing))
    return None if hours is None or per_hour is None else hours * per_hour


def _price(kind: Kind, pricing: Pricing) -> float | None:
    if pricing == "file" or kind.group.market == "owned":
        return kind.usd_per_hour
    if kind.group.head:
        return kind.prices["on-demand" if pricing == "on-demand" else kind.group.market]
    return kind.prices[pricing]


# How fast a run will be, and whether decoding keeps up: pure estimates.


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


# Whether the CPUs that are left for reading keep the workers fed: an estimate.


NAME = "data keeps up"

MARGIN = 1.2
"""Decoding should be so much faster than training: reading and sending take CPU time as well."""


def check_decoding(needed_per_s: float, cpus: float, cpu_s: float, workers: int, where: str) -> Finding:
    """Compare what the workers train on with what the CPUs decode.

    Args:
        needed_per_s: samples per second that the workers train on.
        cpus: that decode.
        cpu_s: CPU seconds of a sample.
        workers: how many train.
        where: the machine that decoding was timed on.
    """
    decoded_per_s = cpus / cpu_s
    found = (
        f"{workers} workers train on {needed_per_s:,.0f} samples/s; {cpus:,.0f} CPUs decode {decoded_per_s:,.0f} "
        f"({1000 * cpu_s:.1f} CPU-s per 1,000, timed on {where} with pictures of 500x375) (estimate)"
    )
    if decoded_per_s >= MARGIN * needed_per_s:
        return passed(NAME, found)
    lacking = MARGIN * needed_per_s * cpu_s - cpus
    fix = f"About {lacking:,.0f} more CPUs would do: let the cluster's file have more or larger machines without GPUs."
    if decoded_per_s >= needed_per_s:
        return warned(NAME, f"{found}, which is close", fix)
    return warned(NAME, f"{found}, so the workers will wait for data", fix)


# How fast a run has been so far, from its own metric log.


NEWEST_STEPS = 200


@dataclass(frozen=True, slots=True)
class PastSpeed:
    """How fast a run was of late.

    Args:
        next_step: the next step to do.
        samples_per_s: median over its newest steps, without checkpoints and evaluations; None when it has none.
        workers: training workers that did them; None when nobody can tell.
    """

    next_step: int
    samples_per_s: float | None
    workers: int | None


def past_speed(run: RunFolder, scale: ScaleSection) -> PastSpeed:
    """Read what a run's log says about its speed.

    Args:
        run: the run.
        scale: as it is to go on; without events in the log a fixed number of workers is taken to be that of the past.

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
