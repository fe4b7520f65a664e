"""What a user reads when a run failed for good."""

from pathlib import Path

from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from orchestrator.spec.errors import FuserayError
from orchestrator.train.failure import explain


def test_the_error_that_explains_it_is_told_and_the_rest_is_logged(tmp_path: Path) -> None:
    failures = {0: RuntimeError("Connection closed by peer"), 1: FuserayError("disk full; free some space")}
    told = str(explain(WorkerGroupError("workers failed", failures), tmp_path / "log"))
    assert told.splitlines()[0].startswith("The run failed on worker 1: ")
    assert "disk full; free some space" in told
    assert "by peer" not in told
    assert str(tmp_path / "log") in told
    assert "workers failed" in (tmp_path / "log").read_text()


def test_an_unknown_error_is_named_with_its_first_line(tmp_path: Path) -> None:
    told = str(explain(WorkerGroupError("workers failed", {0: ValueError("odd value\nmore")}), tmp_path / "log"))
    assert "ValueError: odd value\n" in told
    assert "more" not in told.splitlines()[1]


def test_a_controller_failure_is_unwrapped(tmp_path: Path) -> None:
    told = str(explain(ControllerError(FuserayError("no room on the cluster")), tmp_path / "log"))
    assert "no room on the cluster" in told


def test_nothing_but_the_outer_error_is_enough(tmp_path: Path) -> None:
    assert "TrainingFailedError: it failed" in str(explain(TrainingFailedError("it failed"), tmp_path / "log"))
