"""The figures of a step: the same from a live record and from the log."""

import pytest

from orchestrator.stream.micro_batch import SkippedSample
from orchestrator.track.metric_log import StepLine
from orchestrator.train.run_logger import SkippedCounts, StepMetrics

START_MS = 1_750_000_000_000
CREATED = "2025-06-15T15:06:40+00:00"


def line(step: int, end_s: float, samples: int = 16, **seconds: float) -> StepLine:
    return StepLine(step, START_MS + round(1000 * end_s), {"loss": 1.0}, seconds or {"data_wait": 1.0}, samples)


def skip(position: int, reason: str) -> SkippedSample:
    return SkippedSample(position, "shard", f"key-{position}", reason, "")


def figures(*skipped: SkippedSample) -> StepMetrics:
    return StepMetrics(CREATED, 16, SkippedCounts(skipped))


def test_rates_leave_out_what_is_not_the_step() -> None:
    parts = {"data_wait": 1.0, "forward_backward": 3.0, "evaluation": 50.0, "checkpoint": 60.0, "startup": 70.0}
    values = figures().of(line(0, 200.0, samples=8, **parts)).values
    assert values["samples_per_s"] == 2.0
    assert values["data_wait_share"] == 0.25
    assert values["seconds/evaluation"] == 50.0
    assert values["loss"] == 1.0


def test_goodput_is_a_curve() -> None:
    """Ten seconds to start, steps of a second, a crash after step 3 that costs steps 2 and 3 and six seconds."""
    done = [(0, 11), (1, 12), (2, 13), (3, 14), (2, 21), (3, 22)]
    found = [points.values["goodput"] for points in figures().of_all(line(step, end_s) for step, end_s in done)]
    assert found == pytest.approx([1 / 11, 2 / 12, 3 / 13, 4 / 14, 3 / 21, 4 / 22])


def test_skipped_samples_are_counted_up_to_the_step_whenever_they_became_known() -> None:
    values = figures(skip(40, "image is broken"), skip(3, "image is broken"), skip(20, "no caption")).of(line(1, 5.0))
    assert values.values["skipped_samples"] == 2.0
    assert values.values["skipped/image_is_broken"] == 1.0
    assert values.values["skipped/no_caption"] == 1.0


def test_without_skipped_samples_there_are_no_reasons() -> None:
    values = figures(skip(40, "no caption")).of(line(1, 5.0)).values
    assert values["skipped_samples"] == 0.0
    assert not [name for name in values if name.startswith("skipped/")]
