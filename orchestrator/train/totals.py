"""What the workers' shares of a step add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.train.collective import Collective
from orchestrator.train.recovery.order import Order
from workloads.contract import MicroResult

Results = Sequence[tuple[MicroBatch, MicroResult]]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all workers of a step.

    Args:
        counts: usable samples of each of the step's micro-batches.
        fingerprints: of the keys that each of the step's micro-batches was made of.
        skipped: bad samples.
        order: what worker 0 was asked to do.
        metrics: means over samples; empty on a worker that has never seen a sample.
    """

    counts: tuple[int, ...]
    fingerprints: tuple[int, ...]
    skipped: int
    order: Order
    metrics: Mapping[str, float]

    @property
    def samples(self) -> int:
        """Usable samples of the step."""
        return sum(self.counts)


def add_up(
    results: Results,
    template: MicroResult,
    share: Sequence[MicroBatch],
    micro_batches: int,
    order: Order,
    collective: Collective,
) -> Totals:
    """Return the totals of a step; all workers call it together and send one message.

    Args:
        results: this worker's micro-batches with usable samples, and their results.
        template: names the metrics, as every result of this step does.
        share: all of this worker's micro-batches.
        micro_batches: micro-batches per step.
        order: what worker 0 was asked to do; of the others it does not count.
        collective: the other workers.
    """
    names = sorted(template.metrics)
    counts, fingerprints = torch.zeros(2, micro_batches, dtype=torch.float64)
    sums = torch.zeros(len(names), dtype=torch.float64)
    for batch in share:
        counts[batch.number % micro_batches] = batch.samples
        fingerprints[batch.number % micro_batches] = batch.fingerprint
    for batch, result in results:
        sums += batch.samples * torch.tensor([float(result.metrics[name]) for name in names], dtype=torch.float64)
    skipped = sum(len(batch.skipped) for batch in share)
    message = torch.cat(
        [counts, fingerprints, torch.tensor([skipped, order * (collective.rank == 0)], dtype=torch.float64), sums]
    )
    collective.sum(message)
    counts, fingerprints, totals, sums = message.split([micro_batches, micro_batches, 2, len(names)])
    samples = float(counts.sum())
    return Totals(
        counts=tuple(int(count) for count in counts.tolist()),
        fingerprints=tuple(int(one) for one in fingerprints.tolist()),
        skipped=int(totals[0]),
        order=Order(int(totals[1])),
        metrics=dict(zip(names, (sums / max(samples, 1)).tolist(), strict=True)),
    )


def in_global_order(
    results: Results, template: MicroResult, counts: Sequence[int], collective: Collective
) -> dict[str, Tensor]:
    """Return the rows that the step's micro-batches share, of all workers, in the order of the micro-batches.

    Each worker puts its rows at their place in a tensor of zeros and the tensors are summed, which is exact.

    Args:
        results: this worker's micro-batches and their results.
        template: gives the names and shapes of the shared rows.
        counts: rows of each of the step's micro-batches.
        collective: the other workers.

    Returns:
        The shared tensors by name, [rows of the step, ...].
    """
    shared: dict[str, Tensor] = {}
    for name, example in sorted(template.shared.items()):
        rows = example.new_zeros((sum(counts), *example.shape[1:]))
        for batch, result in results:
            start = sum(counts[: batch.number % len(counts)])
            rows[start : start + batch.samples] = result.shared[name]
        collective.sum(rows)
        shared[name] = rows
    return shared
