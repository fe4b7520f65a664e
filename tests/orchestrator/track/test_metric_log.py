"""The run's own log of its metrics."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from tracking import line

from orchestrator.storage.location import Location, locate
from orchestrator.track.metric_log import MetricLog, MetricLogError, StepLine, logged_steps, read_metric_log


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "metrics"))


def write(folder: Location, *lines: StepLine, by_driver: bool = False) -> None:
    log = MetricLog(folder, by_driver)
    for one in lines:
        log.add(one)
    log.flush()


def test_what_was_entered_comes_back(folder: Location) -> None:
    lines = [line(step, loss=0.1 + step, other=-1e-300) for step in range(3)]
    write(folder, *lines)
    assert list(read_metric_log(folder)) == lines
    assert [file.name for file in folder.list()] == ["steps-00000000-to-00000002.jsonl"]


def test_numbers_that_are_none_are_kept_in_valid_json(folder: Location) -> None:
    write(folder, line(0, loss=math.nan, gain=math.inf, loss_of_gain=-math.inf))
    text = folder.list()[0].read().decode()
    assert "NaN" not in text
    assert "Infinity" not in text
    (found,) = read_metric_log(folder)
    assert math.isnan(found.metrics["loss"])
    assert found.metrics["gain"] == math.inf
    assert found.metrics["loss_of_gain"] == -math.inf


def test_steps_done_again_count_as_they_were_done_last(folder: Location) -> None:
    """Stopped after step 9 without a checkpoint since step 5, and continued with checkpoints at other steps."""
    first = [line(step) for step in range(10)]
    again = [replace(line(step, loss=7.0), time_ms=first[-1].time_ms + step) for step in range(5, 12)]
    write(folder, *first[:5])
    write(folder, *first[5:])
    write(folder, *again[:3])
    write(folder, *again[3:])
    assert list(read_metric_log(folder)) == first[:5] + again
    assert logged_steps(folder) == [range(0, 5), range(5, 8), range(5, 10), range(8, 12)]


def test_a_step_may_be_amended_after_its_file_was_written(folder: Location) -> None:
    log = MetricLog(folder)
    log.add(line(0))
    log.flush()
    amended = replace(line(0), seconds={"step": 0.5, "checkpoint": 2.0})
    log.add(amended)
    log.add(line(1))
    log.flush()
    log.flush()
    assert list(read_metric_log(folder)) == [amended, line(1)]


def test_what_the_driver_adds_replaces_no_file_of_the_worker(folder: Location) -> None:
    write(folder, *(line(step) for step in range(4)))
    write(folder, line(0), line(3), by_driver=True)
    assert [found.step for found in read_metric_log(folder)] == [0, 1, 2, 3]


def test_the_driver_may_have_seen_steps_twice(folder: Location) -> None:
    """Steps 4 to 6 were reported, then the run went on at step 3 with other workers; nothing reached MLflow."""
    write(folder, *(line(step) for step in range(4)))
    again = [replace(line(step, loss=7.0), time_ms=line(9).time_ms) for step in range(3, 5)]
    write(folder, *(line(step) for step in range(4, 7)), *again, by_driver=True)
    assert list(read_metric_log(folder)) == [line(0), line(1), line(2), *again, line(5), line(6)]


def test_many_files_are_read_in_order(folder: Location) -> None:
    for step in range(0, 90, 3):
        write(folder, *(line(step + more) for more in range(3)))
    assert [found.step for found in read_metric_log(folder)] == list(range(90))


def test_other_files_are_passed_over_and_damaged_ones_are_named(folder: Location) -> None:
    assert list(read_metric_log(folder)) == []
    write(folder, line(0))
    (folder / ".steps-00000001-to-00000001.jsonl.draft").write(b"half a li")
    assert len(list(read_metric_log(folder))) == 1
    (folder / "steps-00000001-to-00000001.jsonl").write(b'{"step": 1')
    with pytest.raises(MetricLogError, match=r"steps-00000001-to-00000001.jsonl: is damaged"):
        list(read_metric_log(folder))
