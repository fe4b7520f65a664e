"""From samples as stored to the features a workload trains on."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.stream.data_set.content import Unreadable
from orchestrator.stream.micro_batch import MicroBatch, Skipped, fingerprint, stack
from orchestrator.stream.raw_batch import RawBatch, RawSample
from workloads.contract import BadSample, Features, KeyedRandom, Transform


@dataclass(frozen=True, slots=True)
class Decoder:
    """Transforms micro-batches; the result depends on the samples and the seed, never on where it runs.

    Args:
        transform: the workload's.
        seed: the run's.
    """

    transform: Transform
    seed: int

    def __call__(self, raw: RawBatch) -> MicroBatch:
        """Transform a micro-batch; samples that cannot be used are left out and listed."""
        features: list[Features] = []
        keys: list[str] = []
        skipped: list[Skipped] = []
        for sample in raw.samples:
            try:
                features.append(self._features(sample))
                keys.append(sample.content.key)
            except BadSample as fault:
                skipped.append(Skipped(sample.position, sample.shard, sample.content.key, fault.reason, fault.detail))
        return MicroBatch(
            number=raw.number,
            keys=tuple(keys),
            features=stack(features),
            skipped=tuple(skipped),
            fingerprint=fingerprint(sample.content.key for sample in raw.samples),
        )

    def _features(self, sample: RawSample) -> Features:
        if isinstance(sample.content, Unreadable):
            raise sample.content.fault
        draw = KeyedRandom((self.seed, "transform", sample.source, sample.epoch, sample.number))
        return self.transform(sample.content, draw)
