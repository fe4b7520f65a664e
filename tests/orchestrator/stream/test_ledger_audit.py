"""A ledger is exact only when each micro-batch has just the samples that the order gives it."""

from dataclasses import replace
from pathlib import Path

import pytest
from shards import write_shards

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.ledger import Ledger, LedgerLine, check_ledger, read_ledger
from orchestrator.stream.micro_batch import MicroBatch, SkippedSample
from orchestrator.stream.reader import DataSet, Reader, TrainingData
from orchestrator.stream.state import StreamState, stream_changes, stream_settings

SIZE = 8
BATCHES = range(10)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folders = [locate(write_shards(str(tmp_path_factory.mktemp("data") / str(count)), count)) for count in (30, 50)]
    data = TrainingData(tuple(DataSet(folder, read_index(folder), 1.0) for folder in folders))
    return data.reader(seed=1, chunk=4, window=16, micro_batches=2, micro_batch_size=SIZE, total_samples=160)


@pytest.fixture
def lines(reader: Reader) -> list[LedgerLine]:
    return [LedgerLine(number // 2, number, tuple(reader.keys(number)), ()) for number in BATCHES]


def test_the_order_itself_is_exact(reader: Reader, lines: list[LedgerLine]) -> None:
    audit = check_ledger(lines, reader, BATCHES)
    assert audit.exact
    assert (audit.micro_batches, audit.samples, audit.skipped) == (10, 80, 0)


def test_a_repeated_step_and_later_steps_do_no_harm(reader: Reader, lines: list[LedgerLine]) -> None:
    later = LedgerLine(5, 10, tuple(reader.keys(10)), ())
    assert check_ledger([*lines, lines[3], later], reader, BATCHES).exact


def test_skipped_samples_are_part_of_the_order(reader: Reader, lines: list[LedgerLine]) -> None:
    keys = lines[4].keys
    lines[4] = replace(lines[4], keys=(*keys[:2], *keys[3:]), skipped=(keys[2],))
    audit = check_ledger(lines, reader, BATCHES)
    assert audit.exact
    assert audit.skipped == 1


def test_faults_are_found(reader: Reader, lines: list[LedgerLine]) -> None:
    swapped = replace(lines[2], keys=(lines[2].keys[1], lines[2].keys[0], *lines[2].keys[2:]))
    audit = check_ledger([*lines[:2], *lines[3:6], *lines[7:], swapped, replace(lines[7], keys=())], reader, BATCHES)
    assert not audit.exact
    assert audit.wrong == (2,)
    assert audit.missing == (6,)
    assert audit.contradictory == (7,)


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = locate(str(tmp_path / "ledger"))
    skip = SkippedSample(9, "s", "é", "image is missing", "")
    for worker, number in ((0, 4), (1, 5)):
        ledger = Ledger(folder, worker)
        ledger.add(2, [MicroBatch(number, ("a", "b"), {}, (skip,), 0)])
        ledger.flush()
        ledger.flush()
    assert list(read_ledger(folder)) == [LedgerLine(2, n, ("a", "b"), ("é",)) for n in (4, 5)]


def _state(reader: Reader, number: int) -> StreamState:
    from orchestrator.stream.micro_batch import fingerprint

    return StreamState(stream_settings(reader, 1), tuple(fingerprint(reader.keys(n)) for n in (number - 1, number)))


def test_a_resume_that_goes_on_where_it_stopped_is_proved(reader: Reader) -> None:
    state = StreamState.of(_state(reader, 3).plain())
    assert stream_changes(state, stream_settings(reader, 1), reader, next_step=2) == []


def test_what_changed_is_named(reader: Reader) -> None:
    other = replace(reader, layout=replace(reader.layout, micro_batch_size=4))
    changes = stream_changes(_state(reader, 3), stream_settings(other, 2), other, next_step=2)
    assert changes == ["batch.micro_batch_size: 8 -> 4", "seed: 1 -> 2"]


def test_samples_that_moved_are_noticed(reader: Reader) -> None:
    changes = stream_changes(_state(reader, 2), stream_settings(reader, 1), reader, next_step=2)
    message = "their keys are not those that were trained on"
    assert changes == [f"the samples of micro-batch {number}: {message}" for number in (2, 3)]
