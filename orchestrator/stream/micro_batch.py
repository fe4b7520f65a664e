"""Micro-batches: as read (`RawBatch`, encoded images and texts) and as trained on (`MicroBatch`, stacked features)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.storage.jsonl_log import decode_jsonl, encode_jsonl
from orchestrator.storage.location import Location
from orchestrator.stream.dataset.sidecar import Content, Unreadable
from workloads.contract import BadSample, Features, Sample

SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("source", pa.int32()),
        ("epoch", pa.int64()),
        ("number", pa.int64()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("image", pa.large_binary()),
        ("captions", pa.list_(pa.string())),
        ("fields", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class SkippedSample:
    """A skipped sample: its position in the run's order, its shard and key, and the reason."""

    position: int
    shard: str
    key: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The usable samples of one micro-batch.

    Args:
        number: number of the micro-batch in the run.
        keys: keys of the samples, in order.
        features: the samples' features stacked along a new first dimension; empty without samples.
        skipped: its unusable samples.
        fingerprint: of the keys of all its samples, used and skipped.
    """

    number: int
    keys: tuple[str, ...]
    features: dict[str, NDArray[np.generic]]
    skipped: tuple[SkippedSample, ...]
    fingerprint: int

    @property
    def samples(self) -> int:
        """Number of usable samples."""
        return len(self.keys)


def write_quarantine(file: Location, skipped: Iterable[SkippedSample]) -> None:
    """Write a run's list of skipped samples as JSON lines."""
    file.write(encode_jsonl(map(asdict, skipped)))


def read_quarantine(file: Location) -> list[SkippedSample]:
    """Return the skipped samples of a run; empty when there is no list of them."""
    if file.size() is None:
        return []
    return [SkippedSample(**record) for record in decode_jsonl(file.read())]


def fingerprint(keys: Iterable[str]) -> int:
    """Return a 48-bit hash of keys in their order; a float64 holds it exactly."""
    return int.from_bytes(hashlib.blake2b("\n".join(keys).encode(), digest_size=6).digest(), "little")


def stack(features: Sequence[Features]) -> dict[str, NDArray[np.generic]]:
    """Stack the features of n samples, [...] each, to [n, ...]."""
    return {name: np.stack([sample[name] for sample in features]) for name in features[0]} if features else {}


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample of the stream, as read.

    Args:
        position: in the run's order.
        source: number of its data set.
        epoch: of that data set.
        number: its number in that data set.
        shard: URI of its shard.
        content: the sample, or why it could not be read.
    """

    position: int
    source: int
    epoch: int
    number: int
    shard: str
    content: Content


@dataclass(frozen=True, slots=True)
class RawBatch:
    """The samples of one micro-batch, in order."""

    number: int
    samples: tuple[RawSample, ...]

    def encode(self) -> pa.Buffer:
        """Return the micro-batch as an Arrow stream."""
        table = pa.Table.from_pylist([_row(sample) for sample in self.samples], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema.with_metadata({"number": str(self.number)})) as writer:
            writer.write_table(table)
        return sink.getvalue()

    @classmethod
    def decode(cls, content: pa.Buffer) -> RawBatch:
        """Build a micro-batch from what `encode` returned."""
        with pa.ipc.open_stream(content) as reader:
            number = int(reader.schema.metadata[b"number"])
            rows: Iterable[dict[str, Any]] = reader.read_all().to_pylist()
        return cls(number, tuple(_sample(row) for row in rows))


def _row(sample: RawSample) -> dict[str, Any]:
    row = {name: getattr(sample, name) for name in ("position", "source", "epoch", "number", "shard")}
    content = sample.content
    if isinstance(content, Unreadable):
        return row | {"key": content.key, "reason": content.fault.reason, "detail": content.fault.detail}
    fields = json.dumps(dict(content.fields), ensure_ascii=False)
    return row | {"key": content.key, "image": content.image, "captions": content.captions, "fields": fields}


def _sample(row: dict[str, Any]) -> RawSample:
    content: Content
    if row["reason"] is not None:
        content = Unreadable(row["key"], BadSample(row["reason"], row["detail"]))
    else:
        content = Sample(row["key"], row["image"], tuple(row["captions"]), json.loads(row["fields"]))
    return RawSample(row["position"], row["source"], row["epoch"], row["number"], row["shard"], content)
