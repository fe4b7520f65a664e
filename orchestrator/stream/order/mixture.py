"""The mixture of data sets: a pure function position -> (source, position within that source).

Positions are divided into cycles of 4096. Every source has a fixed number of positions in a cycle, which are shuffled
differently in every cycle. Each source has its own `Order` over its positions, and so its own epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from orchestrator.config.errors import ConfigError
from orchestrator.stream.order.sample_order import Ids, shuffled
from workloads.contract import KeyedRandom

CYCLE = 4096
"""Positions per cycle: shares are multiples of 1/4096."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The source of each position of a run.

    A source's share is its weight rounded to a multiple of 1/4096, and it holds exactly in every cycle of 4096
    positions, not only on average.

    Args:
        quotas: positions of each source in a cycle; their sum is `CYCLE`.
        seed: the run's seed.
    """

    quotas: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, weights: Sequence[float], seed: int) -> Mixture:
        """Return the mixture of sources with some weights, which need not add up to one.

        Raises:
            ConfigError: a weight is not a positive number, or so small that the source has no position in a cycle.
        """
        _check_weights(weights)
        quotas = _largest_remainders(weights)
        if 0 in quotas:
            source = quotas.index(0)
            raise ConfigError(
                f"data.mix.{source}.weight: {weights[source]:g} is {weights[source] / sum(weights):.1g} "
                f"of the whole, and shares are multiples of 1/{CYCLE}; give it more weight or leave it out."
            )
        return cls(quotas, seed)

    def locate(self, positions: Ids) -> tuple[Ids, Ids]:
        """Return the source at each global position and the position within that source, int64[n] each."""
        positions = np.asarray(positions, dtype=np.int64)
        if len(self.quotas) == 1:
            return np.zeros_like(positions), positions
        sources, in_source = np.empty_like(positions), np.empty_like(positions)
        cycles = positions // CYCLE
        quotas = np.array(self.quotas, dtype=np.int64)
        for cycle in np.unique(cycles):
            here = cycles == cycle
            of_cycle, ranks = _cycle(self, int(cycle))
            sources[here] = of_cycle[positions[here] % CYCLE]
            in_source[here] = cycle * quotas[sources[here]] + ranks[positions[here] % CYCLE]
        return sources, in_source

    def samples_before(self, position: int) -> tuple[int, ...]:
        """Return how many samples of each source precede a global position."""
        if len(self.quotas) == 1:
            return (position,)
        cycle, offset = divmod(position, CYCLE)
        used = np.bincount(_cycle(self, cycle)[0][:offset], minlength=len(self.quotas))
        return tuple(cycle * quota + int(count) for quota, count in zip(self.quotas, used, strict=True))


def _check_weights(weights: Sequence[float]) -> None:
    if not weights:
        raise ConfigError("data.mix: has no data sets; name at least one.")
    for source, weight in enumerate(weights):
        if not (weight > 0 and math.isfinite(weight)):
            raise ConfigError(f"data.mix.{source}.weight: is {weight:g}; give a positive number.")
    if not math.isfinite(sum(weights)):
        raise ConfigError("data.mix: the weights add up to infinity; make them smaller, only their proportions count.")


def _largest_remainders(weights: Sequence[float]) -> tuple[int, ...]:
    """Apportion the positions of a cycle by largest remainders, ties in order."""
    shares = np.array(weights, dtype=np.float64) / sum(weights) * CYCLE
    quotas = np.floor(shares).astype(np.int64)
    largest = np.argsort(quotas - shares, kind="stable")
    quotas[largest[: CYCLE - quotas.sum()]] += 1
    return tuple(quotas.tolist())


@lru_cache(maxsize=16)
def _cycle(mixture: Mixture, cycle: int) -> tuple[Ids, Ids]:
    """Return the source of each position of a cycle and its rank among those of that source, int64[CYCLE] each."""
    of_quota = np.repeat(np.arange(len(mixture.quotas)), mixture.quotas)
    sources = of_quota[shuffled(CYCLE, KeyedRandom((mixture.seed, "mix", cycle)))]
    ranks = np.empty_like(sources)
    starts = np.repeat(np.cumsum(mixture.quotas) - mixture.quotas, mixture.quotas)
    ranks[np.argsort(sources, kind="stable")] = np.arange(CYCLE) - starts
    return sources, ranks
