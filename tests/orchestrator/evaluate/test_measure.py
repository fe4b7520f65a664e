"""One outcome however an evaluation is cut, interrupted and kept, in one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from measured import SeededModel
from shards import write_shards
from toy_workload import ToyOptions

from orchestrator.evaluate.features import SpillingFeatures
from orchestrator.evaluate.held_out import HeldOutSamples, Measurement
from orchestrator.evaluate.measure import Executor, InProcess, Measuring
from orchestrator.evaluate.records import EncodedBlock, FinishedWork, decode_record, encode_record
from orchestrator.storage.location import Location, locate
from orchestrator.stream.dataset.index import read_index
from workloads.contract import Chunk, Record

OPTIONS = ToyOptions(block=3, compare=2, gallery=4)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOutSamples:
    folder = locate(write_shards(str(tmp_path_factory.mktemp("data")), 14, per_shard=5))
    return HeldOutSamples.of(folder, read_index(folder), OPTIONS.block)


class Counting:
    """Counts what an executor is asked for, and stops it after so many pieces."""

    def __init__(self, executor: Executor, stop_after: int = 1000) -> None:
        self.executor, self.left = executor, stop_after
        self.blocks: list[int] = []
        self.chunks: list[int] = []

    def encode(self, numbers: Sequence[int]) -> Iterator[EncodedBlock]:
        for block in self.executor.encode(numbers):
            self._stop()
            self.blocks.append(block.number)
            yield block

    def score(self, chunks: Mapping[int, Chunk]) -> Iterator[tuple[int, Record]]:
        for number, record in self.executor.score(chunks):
            self._stop()
            self.chunks.append(number)
            yield number, record

    def _stop(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def run(
    held_out: HeldOutSamples, kept: Location | None, stop_after: int = 1000, limit_bytes: int = 10**6
) -> tuple[Measurement | None, Counting]:
    with SeededModel("toy").load().evaluator(OPTIONS) as evaluator, SpillingFeatures(limit_bytes) as features:
        counting = Counting(InProcess(evaluator, held_out, features), stop_after)
        try:
            return Measuring(evaluator, held_out, counting, FinishedWork(kept)).run(), counting
        except KeyboardInterrupt:
            return None, counting


def test_what_was_done_is_not_done_again(held_out: HeldOutSamples, tmp_path: Path) -> None:
    whole, all_of_it = run(held_out, None)
    assert (all_of_it.blocks, all_of_it.chunks) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    kept = locate(str(tmp_path / "kept"))
    assert run(held_out, kept, stop_after=3)[0] is None
    stopped, second = run(held_out, kept, stop_after=4)
    assert (stopped, second.blocks, second.chunks) == (None, [3, 4], [0, 1])
    resumed, third = run(held_out, kept)
    assert (third.blocks, third.chunks) == ([], [2, 3, 4])
    assert resumed == whole


def test_damaged_and_foreign_records_are_done_again(held_out: HeldOutSamples, tmp_path: Path) -> None:
    kept = locate(str(tmp_path / "kept"))
    whole, _ = run(held_out, kept)
    (tmp_path / "kept" / "block-00000002.npz").write_bytes(b"PK damaged")
    record = decode_record((tmp_path / "kept" / "chunk-00000001.npz").read_bytes())
    other = {"about": record.values["about"] | {"task": "another"}, "result": {}}
    (tmp_path / "kept" / "chunk-00000001.npz").write_bytes(encode_record(Record(record.arrays, other)))
    again, counting = run(held_out, kept)
    assert (counting.blocks, counting.chunks) == ([2], [1])
    assert again == whole


def test_features_that_do_not_fit_into_memory_change_nothing(held_out: HeldOutSamples) -> None:
    assert run(held_out, None, limit_bytes=0)[0] == run(held_out, None)[0]


def test_features_spill_and_their_files_go(tmp_path: Path) -> None:
    with SpillingFeatures(100) as features:
        for number in range(3):
            features[number, "x"] = np.full(10, number, dtype=np.float64)
        assert [float(features[number, "x"][0]) for number in range(3)] == [0, 1, 2]
        assert [isinstance(features[number, "x"], np.memmap) for number in range(3)] == [False, True, True]
        folder = Path(features._folder.name if features._folder else "")
        assert len(list(folder.iterdir())) == 2
        del features[1, "x"]
        assert set(features) == {(0, "x"), (2, "x")}
    assert not folder.exists()


def test_a_record_that_would_have_to_be_unpickled_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.npz"
    np.savez(file, values=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="is no record"):
        decode_record(file.read_bytes())


def test_a_record_comes_back_as_it_was() -> None:
    record = Record({"x": np.array([0.1, np.nan]), "y": np.array([], dtype=bool)}, {"a": [1, "\u00e4", None, 0.1]})
    again = decode_record(encode_record(record))
    assert again.values == record.values
    assert all(
        np.array_equal(again.arrays[name], array, equal_nan=name == "x") for name, array in record.arrays.items()
    )
    assert encode_record(again) == encode_record(record)


def test_progress_counts_what_was_done_before(held_out: HeldOutSamples, tmp_path: Path) -> None:
    class Noting:
        def __init__(self) -> None:
            self.stages: list[list[object]] = []

        def begin(self, unit: str, total: int, done: int) -> None:
            self.stages.append([unit, total, done])

        def advance(self, count: int) -> None:
            self.stages[-1][2] += count  # type: ignore[operator]

    kept, noting = locate(str(tmp_path / "kept")), Noting()
    run(held_out, kept, stop_after=7)
    with SeededModel("toy").load().evaluator(OPTIONS) as evaluator, SpillingFeatures(0) as features:
        executor = InProcess(evaluator, held_out, features)
        Measuring(evaluator, held_out, executor, FinishedWork(kept), noting).run()
    assert noting.stages == [["samples", 14, 14], ["toys", 14, 14]]
