"""`Decoder` turns stored samples into the features a workload trains on; and where in the cluster that happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.stream.dataset.sidecar import Unreadable
from orchestrator.stream.image_cache.cache import DecodedCache
from orchestrator.stream.micro_batch import MicroBatch, RawBatch, RawSample, SkippedSample, fingerprint, stack
from workloads.contract import BadSample, Features, KeyedRandom, Sample, StagedTransform, Transform

Outcome = Features | BadSample

DecodeOn = Literal["auto", "workers", "readers"]

THREADS_THAT_PAY = 1.5
"""Most CPUs that the decoding threads of one process can use: parts of decoding hold Python's global lock."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Transforms micro-batches; the result depends on the samples and the seed alone.

    Args:
        transform: the workload's.
        seed: the run's.
        cache: of decoded images, for transforms with a separate decoding stage; None for none.
    """

    transform: Transform
    seed: int
    cache: DecodedCache | None = None

    def __call__(self, raw: RawBatch) -> MicroBatch:
        """Transform a micro-batch; unusable samples are skipped and listed."""
        outcomes = dict(self._outcomes(raw.samples))
        features: list[Features] = []
        keys: list[str] = []
        skipped: list[SkippedSample] = []
        for i, sample in enumerate(raw.samples):
            outcome, key = outcomes[i], sample.content.key
            if isinstance(outcome, BadSample):
                skipped.append(SkippedSample(sample.position, sample.shard, key, outcome.reason, outcome.detail))
            else:
                features.append(outcome)
                keys.append(key)
        return MicroBatch(
            number=raw.number,
            keys=tuple(keys),
            features=stack(features),
            skipped=tuple(skipped),
            fingerprint=fingerprint(sample.content.key for sample in raw.samples),
        )

    def _outcomes(self, samples: Sequence[RawSample]) -> Iterator[tuple[int, Outcome]]:
        """Yield the index and outcome of every sample, in any order."""
        readable: list[tuple[int, Sample, KeyedRandom]] = []
        for i, sample in enumerate(samples):
            if isinstance(sample.content, Unreadable):
                yield i, sample.content.fault
            else:
                draw = KeyedRandom((self.seed, "transform", sample.source, sample.epoch, sample.number))
                readable.append((i, sample.content, draw))
        if self.cache is not None and isinstance(self.transform, StagedTransform):
            yield from _from_cache(self.cache, self.transform, readable)
        else:
            for i, content, draw in readable:
                yield i, _outcome(self.transform, content, draw)


def _from_cache(
    cache: DecodedCache, transform: StagedTransform, readable: Sequence[tuple[int, Sample, KeyedRandom]]
) -> Iterator[tuple[int, Outcome]]:
    for number, pixels in cache.decode([sample.image for _, sample, _ in readable], transform):
        i, sample, draw = readable[number]
        yield i, pixels if isinstance(pixels, BadSample) else _outcome(transform.finish, sample, pixels, draw)


def _outcome(step: Callable[..., Features], *arguments: object) -> Outcome:
    try:
        return step(*arguments)
    except BadSample as fault:
        return fault


@dataclass(frozen=True, slots=True)
class Node:
    """The CPUs and GPUs of a node of the cluster."""

    cpus: float
    gpus: float


def decoded_share(
    decode_on: DecodeOn, nodes: Sequence[Node], workers: int, cpus_per_worker: float, threads: int
) -> float:
    """Return the share of micro-batches that the readers decode; the workers' threads decode the rest. Pure.

    `auto` loads all CPUs equally: those that the workers leave to the readers, on nodes with and without GPUs, and
    those that a worker's threads can use.

    Args:
        decode_on: the recipe's `stream.decode_on`.
        nodes: nodes of the cluster.
        workers: number of training workers.
        cpus_per_worker: CPUs reserved for each.
        threads: decoding threads of each.
    """
    if decode_on != "auto":
        return float(decode_on == "readers")
    readers = max(0.0, sum(node.cpus for node in nodes) - workers * cpus_per_worker)
    in_workers = workers * min(threads, max(cpus_per_worker, 1.0), THREADS_THAT_PAY)
    return readers / (readers + in_workers)


def can_read(nodes: Sequence[Node], workers: int, cpus_per_worker: float) -> bool:
    """Return whether the workers leave a whole CPU for reading on some node. Pure.

    Workers are packed onto as few nodes as possible, as Ray packs them.
    """
    left, free = workers, []
    for node in sorted(nodes, key=lambda node: (node.gpus, node.cpus), reverse=True):
        placed = min(left, int(node.cpus / cpus_per_worker))
        left -= placed
        free.append(node.cpus - placed * cpus_per_worker)
    return left == 0 and max(free, default=0) >= 1
