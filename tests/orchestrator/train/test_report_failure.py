"""What a user reads, and what stays, when a run failed for good."""

import json
from pathlib import Path

import pytest
from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from runs import write_run
from shards import write_shards

from orchestrator.config.errors import FuserayError
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.classify import diagnose_error
from orchestrator.train.recovery.failure_report import message, report_failure, training_error
from orchestrator.train.recovery.policy import AttemptFailure, GiveUp


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return write_run(tmp_path, f"data.train={write_shards(str(tmp_path / 'data'), 40)}")


def told(error: BaseException, plan: Plan, log: Path) -> str:
    return str(training_error(report_failure(error, None, plan, log), plan))


def test_the_error_that_explains_it_is_told_and_the_rest_is_logged(tmp_path: Path, plan: Plan) -> None:
    failures = {0: RuntimeError("Connection closed by peer"), 1: FuserayError("disk full; free some space")}
    text = told(WorkerGroupError("workers failed", failures), plan, tmp_path / "log")
    assert text.splitlines()[0].startswith("The run failed on worker 1: ")
    assert "disk full; free some space" in text
    assert "by peer" not in text
    assert str(tmp_path / "log") in text
    assert "workers failed" in (tmp_path / "log").read_text()


def test_an_unknown_error_is_named_with_its_first_line(tmp_path: Path, plan: Plan) -> None:
    text = told(WorkerGroupError("workers failed", {0: ValueError("odd value\nmore")}), plan, tmp_path / "log")
    assert "ValueError: odd value\n" in text
    assert "more" not in text.splitlines()[1]


def test_a_controller_failure_is_unwrapped(tmp_path: Path, plan: Plan) -> None:
    assert "no room on the cluster" in told(
        ControllerError(FuserayError("no room on the cluster")), plan, tmp_path / "log"
    )


def test_nothing_but_the_outer_error_is_enough(tmp_path: Path, plan: Plan) -> None:
    assert "TrainingFailedError: it failed" in told(TrainingFailedError("it failed"), plan, tmp_path / "log")


def test_what_the_controller_gave_up_on_has_its_step_and_keys_and_stays_in_the_folder(
    tmp_path: Path, plan: Plan
) -> None:
    cause = WorkerGroupError("failed", {0: RuntimeError("Timed out waiting 9ms for recv")})
    fault = AttemptFailure(diagnose_error(cause, 2), 3, GiveUp(4, "recovery.machine_faults", 3))
    failure = report_failure(ControllerError(RuntimeError("gave up")), fault, plan, tmp_path / "log")
    assert failure.run == plan.run.root.uri
    assert failure.diagnosis.ranks == (1,)
    assert [batch.first_keys for batch in failure.micro_batches] == [tuple(plan.reader.keys(n)[:3]) for n in (6, 7)]
    text = str(training_error(failure, plan))
    assert "recovery.machine_faults" in text
    kept = json.loads(plan.run.post_mortem.read())
    assert (kept["step"], kept["kind"], kept["tries"]["attempts"]) == (3, "hung", 4)


def test_a_fault_that_was_survived_is_not_what_ended_the_run(tmp_path: Path, plan: Plan) -> None:
    survived = AttemptFailure(
        diagnose_error(WorkerGroupError("failed", {0: RuntimeError("Timed out waiting 9ms")}), 2), 3
    )
    failure = report_failure(ValueError("odd"), survived, plan, tmp_path / "log")
    assert failure.step is None
    assert "ValueError: odd" in message(failure)


def test_keys_that_cannot_be_read_do_not_hide_why_a_run_failed(tmp_path: Path, plan: Plan) -> None:
    for sidecar in tmp_path.rglob("*.samples.parquet"):
        sidecar.unlink()
    fault = AttemptFailure(diagnose_error(ValueError("odd")), 3, GiveUp(1))
    failure = report_failure(ValueError("odd"), fault, plan, tmp_path / "log")
    assert failure.micro_batches == ()
    assert "ValueError: odd" in message(failure)
