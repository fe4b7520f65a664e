"""What a user reads when a run failed for good."""

from pathlib import Path

from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from runs import write_run
from shards import write_shards

from orchestrator.spec.errors import FuserayError
from orchestrator.train.failure import explain, failure_of
from orchestrator.train.post_mortem import Tries, message


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


def test_a_failure_has_the_keys_of_its_step(tmp_path: Path) -> None:
    plan = write_run(tmp_path, f"data.train={write_shards(str(tmp_path / 'data'), 40)}")
    error = WorkerGroupError("failed", {0: RuntimeError("Timed out waiting 9ms for recv")})
    known = {"tries": Tries(2), "checkpoint": "", "log": "logs", "time": "2026-01-01"}
    failure = failure_of(error, plan, step=3, **known)
    assert failure.run == plan.run.root.uri
    assert failure.diagnosis.ranks == (1,)
    assert [batch.first_keys for batch in failure.micro_batches] == [tuple(plan.reader.keys(n)[:3]) for n in (6, 7)]
    assert failure_of(error, plan, step=None, **known).micro_batches == ()


def test_keys_that_cannot_be_read_do_not_hide_why_a_run_failed(tmp_path: Path) -> None:
    folder = write_shards(str(tmp_path / "data"), 40)
    plan = write_run(tmp_path, f"data.train={folder}")
    for sidecar in Path(folder).glob("*.samples.parquet"):
        sidecar.unlink()
    failure = failure_of(ValueError("odd"), plan, 3, Tries(1), "", "logs", "2026-01-01")
    assert failure.micro_batches == ()
    assert "ValueError: odd" in message(failure)
