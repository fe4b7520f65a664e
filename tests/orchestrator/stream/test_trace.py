"""A traced micro-batch is what training read, with what became of every sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from damage import write_data_set
from shards import samples, write_shards
from streams import make_reader, read_batches

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.sidecar import Unreadable
from orchestrator.stream.ledger import Ledger, LedgerLine, read_ledger_step
from orchestrator.stream.micro_batch import MicroBatch, SkippedSample
from orchestrator.stream.reader import Reader
from orchestrator.stream.state import BatchKeys, step_keys
from orchestrator.stream.trace import UNEXPLAINED, LedgerStatus, RunRecords, TracedBatch, trace

NOTHING = RunRecords.of((), None)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("data")
    tars = write_shards(str(folder / "tars"), 30, per_shard=10)
    rows = write_shards(str(folder / "rows"), 20, "parquet", per_shard=10)
    return make_reader(tars, rows, micro_batches=2, total=90)


@pytest.fixture(scope="module")
def seventh(reader: Reader) -> LedgerLine:
    return LedgerLine(3, 7, tuple(reader.keys(7)), ())


def says(reader: Reader, *lines: LedgerLine) -> TracedBatch:
    return trace(reader, 7, RunRecords.of((), lines))


def test_it_is_what_training_reads(reader: Reader) -> None:
    (read,) = read_batches(reader, [7])
    result = trace(reader, 7, NOTHING)
    assert (result.number, result.place, result.ledger) == (7, 1, LedgerStatus.NOTHING)
    assert tuple(sample.key for sample in result.samples) == read.keys
    assert [sample.position for sample in result.samples] == list(range(56, 64))
    for sample, (source, epoch, number) in zip(result.samples, reader.sample_ids(7), strict=True):
        assert (sample.epoch, sample.data_set) == (epoch, reader.sources[source].folder.uri)
        shard = sample.shard.removeprefix(f"{sample.data_set}/shard-0000")
        assert (int(shard[:2]) * 10 + sample.row, sample.key) == (number, f"s{number:05d}")
        assert sample.content.captions == (f"picture number {number} of a patch",)
    assert {sample.data_set for sample in result.samples} == {source.folder.uri for source in reader.sources}


def test_skipped_samples_have_their_reason_by_position(reader: Reader) -> None:
    notes = RunRecords.of([SkippedSample(58, "a shard", "its key", "image is truncated", "at byte 9")], None)
    reasons = [sample.skipped for sample in trace(reader, 7, notes).samples]
    assert reasons == ["", "", "image is truncated: at byte 9", "", "", "", "", ""]


def test_the_ledger_agrees_or_not_or_has_no_line(reader: Reader, seventh: LedgerLine) -> None:
    assert says(reader).ledger is LedgerStatus.MISSING
    assert says(reader, seventh, seventh).ledger is LedgerStatus.AGREES
    swapped = replace(seventh, keys=seventh.keys[::-1])
    assert says(reader, seventh, swapped).ledger is LedgerStatus.DIFFERS
    assert says(reader, replace(seventh, micro_batch=6)).ledger is LedgerStatus.MISSING


def test_a_sample_that_only_the_ledger_says_was_skipped(reader: Reader, seventh: LedgerLine) -> None:
    result = says(reader, replace(seventh, keys=seventh.keys[1:], skipped=seventh.keys[:1]))
    assert result.ledger is LedgerStatus.AGREES
    assert result.samples[0].skipped == UNEXPLAINED


def test_a_sample_that_cannot_be_read_is_there_with_its_fault(tmp_path: Path) -> None:
    result = list(samples(10))
    result[4] = replace(result[4], captions=())
    reader = make_reader(str(write_data_set(tmp_path / "data", [result], "webdataset")))
    contents = {one.key: one.content for one in trace(reader, 0, NOTHING).samples}
    contents |= {one.key: one.content for one in trace(reader, 1, NOTHING).samples}
    assert len(contents) == 10
    assert isinstance(contents["s00004"], Unreadable)


def test_the_end_of_the_run_leaves_micro_batches_short_or_empty(reader: Reader) -> None:
    assert len(trace(reader, 11, NOTHING).samples) == 2
    assert trace(reader, 12, NOTHING).samples == ()


def test_a_step_in_brief(reader: Reader) -> None:
    assert step_keys(reader, 3, shown=2) == tuple(
        BatchKeys(number, 8, tuple(reader.keys(number)[:2])) for number in (6, 7)
    )
    assert [batch.number for batch in step_keys(reader, 5)] == [10, 11]
    assert step_keys(reader, 6) == ()
    assert BatchKeys(6, 8, ("a", "b")).text() == "micro-batch 6: a, b and 6 more"
    assert BatchKeys(6, 2, ("a", "b")).text() == "micro-batch 6: a, b"


def test_only_the_files_of_a_step_are_read(tmp_path: Path) -> None:
    folder = locate(str(tmp_path / "ledger"))
    for worker, steps in ((0, (0, 1, 2)), (1, (0, 1, 2)), (0, (3, 4))):
        ledger = Ledger(folder, worker)
        for step in steps:
            ledger.add(step, [MicroBatch(2 * step + worker, ("a",), {}, (), 0)])
        ledger.flush()
    (folder / "steps-00000003-to-00000004-worker-0.jsonl").write(b"damaged")
    (folder / "notes.txt").write(b"not of the ledger")
    lines = read_ledger_step(folder, 1)
    assert [(line.step, line.micro_batch) for line in lines] == [(1, 2), (1, 3)]
    assert read_ledger_step(folder, 9) == []
