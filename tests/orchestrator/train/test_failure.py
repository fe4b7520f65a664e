"""What a user reads when a run failed for good."""

from pathlib import Path

from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from orchestrator.spec.errors import FuserayError
from orchestrator.train.failure import explain


def test_an_error_that_names_its_fix_beats_a_broken_connection(tmp_path: Path) -> None:
    failures = {0: RuntimeError("Connection closed by peer"), 1: FuserayError("disk full; free some space")}
    told = str(explain(WorkerGroupError("workers failed", failures), tmp_path / "log"))
    assert told == f"disk full; free some space\nThe log is {tmp_path}/log."
    assert "workers failed" in (tmp_path / "log").read_text()


def test_an_unknown_error_is_named_with_its_first_line(tmp_path: Path) -> None:
    told = str(explain(WorkerGroupError("workers failed", {0: ValueError("odd value\nmore")}), tmp_path / "log"))
    assert told == f"ValueError: odd value\nThe traceback is in {tmp_path}/log."


def test_a_worker_that_lost_its_peer_is_not_blamed(tmp_path: Path) -> None:
    failures = {0: RuntimeError("Connection closed by peer"), 1: ValueError("odd value")}
    told = str(explain(WorkerGroupError("workers failed", failures), tmp_path / "log"))
    assert told.startswith("ValueError: odd value")


def test_a_controller_failure_is_unwrapped(tmp_path: Path) -> None:
    told = str(explain(ControllerError(FuserayError("no room on the cluster")), tmp_path / "log"))
    assert told.startswith("no room on the cluster")


def test_nothing_but_the_outer_error_is_enough(tmp_path: Path) -> None:
    assert str(explain(TrainingFailedError("it failed"), tmp_path / "log")).startswith("TrainingFailedError: it failed")
