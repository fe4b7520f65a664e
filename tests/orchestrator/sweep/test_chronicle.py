from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.folder import Point, SweepFolder, TrialRecord
from orchestrator.sweep.schedulers import LINEAGE, OUTCOME, REASON, SAMPLES, TRIAL_SPEC
from orchestrator.sweep.sweep_logger import TrialRecorder, TrialRecords
from orchestrator.sweep.tune import SweepSearch

Make = Callable[..., ResolvedSweep]
NAME = "trial-0000-0"


class Trial:
    """What the chronicle looks at of Ray Tune's trials."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.status = "RUNNING"
        self.last_result: dict[str, Any] = {}
        self.error: Exception | None = None

    def get_error(self) -> Exception | None:
        return self.error


class Story:
    """A chronicle of one trial."""

    def __init__(self, make: Make, folder: SweepFolder) -> None:
        times = count()
        self.folder = folder
        trials = TrialRecords(folder)
        self.trial = Trial(SweepSearch(make(), trials).suggest("a"))
        self.chronicle = TrialRecorder(trials, ["loss"], lambda: f"at {next(times)}")
        self.chronicle.on_trial_start(0, [], self.trial)  # type: ignore[arg-type]

    def reports(
        self,
        samples: int,
        loss: float | None,
        outcome: str = "",
        reason: str = "",
        run: str = NAME,
        done: bool = False,
    ) -> None:
        result = {
            "done": done,
            SAMPLES: samples,
            OUTCOME: outcome,
            REASON: reason,
            LINEAGE: {"run": run, "samples": 0, "start": None},
        }
        self.trial.last_result = result if loss is None else result | {"loss": loss}
        self.chronicle.on_trial_result(0, [], self.trial, self.trial.last_result)  # type: ignore[arg-type]

    def ends(self) -> None:
        self.chronicle.on_trial_complete(0, [], self.trial)  # type: ignore[arg-type]

    @property
    def record(self) -> TrialRecord:
        """What somebody else reads in the folder."""
        return self.folder.trials()[0]


@pytest.fixture
def story(make: Make, folder: SweepFolder) -> Story:
    return Story(make, folder)


def test_a_trial_that_comes_to_its_end(story: Story) -> None:
    assert (story.record.status, story.record.started, story.record.points) == ("RUNNING", "at 0", ())
    story.reports(80, 0.5)
    story.reports(160, 0.25, "FINISHED")
    story.ends()
    assert story.record.points == (Point(80, (0.5,)), Point(160, (0.25,)))
    assert (story.record.status, story.record.ended, story.record.run) == ("FINISHED", "at 1", NAME)


def test_a_trial_that_the_scheduler_stops(story: Story) -> None:
    story.reports(80, 0.5)
    story.ends()
    assert (story.record.status, story.record.reason) == ("STOPPED", "stopped early by the scheduler")


def test_a_stop_is_kept_with_the_report_that_it_follows_from(story: Story) -> None:
    """A driver that dies before Ray Tune's next word would otherwise go on with the trial."""
    story.reports(80, 0.5, done=True)
    assert story.record.points == (Point(80, (0.5,)),)
    assert (story.record.status, story.record.ended) == ("STOPPED", "at 1")


def test_a_trial_that_fails_keeps_its_points_and_its_reason(story: Story) -> None:
    story.reports(80, 0.5)
    story.reports(80, None, "FAILED", "the loss is no number")
    story.ends()
    assert story.record.points == (Point(80, (0.5,)),)
    assert (story.record.status, story.record.reason) == ("FAILED", "the loss is no number")


def test_a_trial_that_is_asked_to_stop_is_not_over(story: Story) -> None:
    story.reports(80, 0.5, "PAUSED", "asked")
    story.ends()
    assert (story.record.status, story.record.reason, story.record.is_over) == ("PAUSED", "asked", False)
    story.chronicle.on_trial_start(0, [], story.trial)  # type: ignore[arg-type]
    assert (story.record.status, story.record.reason, story.record.ended) == ("RUNNING", "", "")


def test_a_trial_whose_process_is_lost_again_and_again(story: Story) -> None:
    story.trial.error = RuntimeError("traceback\nThe actor died.")
    story.chronicle.on_trial_error(0, [], story.trial)  # type: ignore[arg-type]
    assert (story.record.status, story.record.reason) == ("FAILED", "The actor died.")


def test_a_trial_that_waits_for_its_turn_and_takes_over_another_ones_checkpoint(story: Story) -> None:
    story.reports(80, 0.5)
    story.trial.status = "PAUSED"
    story.chronicle.on_step_end(0, [story.trial])  # type: ignore[list-item]
    assert story.record.status == "PAUSED"
    story.trial.config[TRIAL_SPEC]["assignment"] = {"distillation.alpha": 0.75}
    story.chronicle.on_trial_start(0, [], story.trial)  # type: ignore[arg-type]
    story.reports(160, 0.25, run=f"{NAME}-from-ab")
    assert story.record.assignment == {"distillation.alpha": 0.75}
    assert (story.record.status, story.record.run) == ("RUNNING", f"{NAME}-from-ab")


def test_a_report_of_an_earlier_place_replaces_what_came_after(story: Story) -> None:
    for samples in (80, 160, 240):
        story.reports(samples, 1.0 / samples)
    story.reports(160, 9.0)
    assert story.record.points == (Point(80, (1 / 80,)), Point(160, (9.0,)))
