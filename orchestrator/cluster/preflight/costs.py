"""What a run takes: machines, hours and dollars, at one number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.cluster.preflight.decoding import MARGIN
from orchestrator.cluster.preflight.fleet import Fleet, fleet_for
from orchestrator.cluster.preflight.machines import Kind
from orchestrator.cluster.preflight.speed import Speed, decoding_cpus
from orchestrator.config.recipe import Recipe

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
