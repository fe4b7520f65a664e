"""Where samples are decoded: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

DecodeOn = Literal["auto", "workers", "readers"]

THREADS_THAT_PAY = 1.5
"""How many CPUs the decoding threads of one process keep busy at most: parts of decoding hold Python's lock."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a machine of the cluster offers."""

    cpus: float
    gpus: float


def decoded_share(
    decode_on: DecodeOn, nodes: Sequence[Node], workers: int, cpus_per_worker: float, threads: int
) -> float:
    """Return the share of micro-batches that reading tasks decode; the workers' threads decode the rest.

    `auto` shares them out so that every CPU has as much to do: those that the workers leave to the readers, on
    machines with and without GPUs, and those that a worker's threads can use.

    Args:
        decode_on: the recipe's wish.
        nodes: machines of the cluster.
        workers: training workers.
        cpus_per_worker: CPUs reserved for each.
        threads: decoding threads of each.
    """
    if decode_on != "auto":
        return float(decode_on == "readers")
    readers = max(0.0, sum(node.cpus for node in nodes) - workers * cpus_per_worker)
    in_workers = workers * min(threads, max(cpus_per_worker, 1.0), THREADS_THAT_PAY)
    return readers / (readers + in_workers)


def can_read(nodes: Sequence[Node], workers: int, cpus_per_worker: float) -> bool:
    """Return whether a whole CPU is left for reading on some machine, once the workers have theirs.

    Workers are packed onto as few machines as possible, as Ray packs them.
    """
    left, free = workers, []
    for node in sorted(nodes, key=lambda node: (node.gpus, node.cpus), reverse=True):
        placed = min(left, int(node.cpus / cpus_per_worker))
        left -= placed
        free.append(node.cpus - placed * cpus_per_worker)
    return left == 0 and max(free, default=0) >= 1
