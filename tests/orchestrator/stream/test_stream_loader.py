"""What a worker makes of a stream that brings another micro-batch than the order says, or none; without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shards import write_shards
from streams import SEED, make_reader
from toy_workload import ToyTransform

from orchestrator.stream import loader
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.loader import StreamEndedError, StreamError, StreamLoader
from orchestrator.stream.order.partition import WorkerPartition
from orchestrator.stream.ray_dataset import EncodedMicroBatch, ReadBlock, ReadPlan, unpack_block


def fed(numbers: tuple[int, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> StreamLoader:
    """The feed of the second of two workers of two steps, which expects micro-batches 1 and 3."""
    read_plan = ReadPlan(make_reader(write_shards(str(folder), 60)), Decoder(ToyTransform(), SEED), 0.0)

    def arriving(_: object) -> Iterator[EncodedMicroBatch]:
        for block in ReadBlock(read_plan, numbers, len(numbers))() if numbers else ():
            yield from unpack_block(block)

    monkeypatch.setattr(loader, "receive", arriving)
    return StreamLoader(read_plan, WorkerPartition(2, 2, 0, 2), 1, 1, 2, lambda _: [None, None])  # type: ignore[list-item]


def test_micro_batches_come_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fed((1, 3), tmp_path, monkeypatch)
    assert [[batch.number for batch in one.step(step)] for step in (0, 1)] == [[1], [3]]


def test_another_micro_batch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fed((1, 2), tmp_path, monkeypatch)
    one.step(0)
    with pytest.raises(StreamError, match="worker 1 expected micro-batch 3 and got micro-batch 2"):
        one.step(1)


def test_a_stream_that_ends_early_is_told_from_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fed((1,), tmp_path, monkeypatch)
    one.step(0)
    with pytest.raises(StreamEndedError, match="worker 1 expected micro-batch 3, and the stream has ended"):
        one.step(1)
