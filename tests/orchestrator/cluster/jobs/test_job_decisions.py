"""What is decided from what a job server and a log say."""

from __future__ import annotations

import shlex

import pytest

from orchestrator.cluster.jobs.client import Job
from orchestrator.cluster.jobs.follow import Progress, last_lines, progress_in, stopped_after
from orchestrator.cluster.jobs.history import match_job
from orchestrator.cluster.jobs.submit import ENVIRONMENT, entrypoint, evaluation_entrypoint, sweep_entrypoint
from orchestrator.config.errors import ConfigError

LOG = """\
run x has 30 steps of 8 samples
step 1/30 loss 3.560  933 samples/s
step 11/30 loss 3.500  900 samples/s  2 skipped
The run was stopped with a checkpoint after 14 steps.
  run folder   /runs/x
"""


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (Job(id="a", status="SUCCEEDED", exit_code=0), 0),
        (Job(id="a", status="STOPPED"), 130),
        (Job(id="a", status="FAILED", exit_code=2), 2),
        (Job(id="a", status="FAILED", exit_code=-9), 137),
        (Job(id="a", status="FAILED"), 1),
    ],
)
def test_exit_codes(job: Job, code: int) -> None:
    assert job.code == code
    assert job.is_over


def test_a_head_without_python_on_its_path_is_explained() -> None:
    failure = Job(id="a", status="FAILED", exit_code=127, message="exit code 127").failure
    assert "first in PATH" in failure
    assert Job(id="a", status="RUNNING", message="running").failure == ""


def test_durations() -> None:
    assert Job(id="a", status="RUNNING", started_ms=1_000).seconds(3_500) == 2.5
    assert Job(id="a", status="STOPPED", started_ms=1_000, ended_ms=2_000).seconds(9_000) == 1.0
    assert Job(id="a", status="PENDING").seconds(9_000) is None


def test_progress_is_read_from_the_log() -> None:
    assert progress_in(LOG) == Progress(11, 30, "loss 3.500  900 samples/s  2 skipped")
    assert progress_in("starting") is None
    assert stopped_after(LOG) == 14
    assert stopped_after("step 1/30 loss") is None
    assert last_lines(LOG, 1) == "  run folder   /runs/x\n"
    assert last_lines(LOG, 0) == ""
    assert last_lines(LOG, 99) == LOG


def test_the_entrypoint_is_one_command_whatever_the_run_is_called() -> None:
    words = shlex.split(entrypoint("a; rm -rf $HOME"))
    assert words[:2] == ["exec", "python"]
    assert words[words.index("--resume") + 1] == "a; rm -rf $HOME"
    assert shlex.split(entrypoint(None))[-3:] == ["--resume", "auto", "scale.address=auto"]
    words = shlex.split(evaluation_entrypoint(["s3://b/runs/x y", "--workers", "4"]))
    assert words[-5:] == ["--address", "auto", "s3://b/runs/x y", "--workers", "4"]
    words = shlex.split(sweep_entrypoint(with_prices=True))
    assert words[1:7] == ["python", "-m", "orchestrator.cli", "sweep", "sweep.yaml", "--resume"]
    assert words[-2:] == ["--prices", "prices.yaml"]
    assert int(ENVIRONMENT["RAY_JOB_STOP_WAIT_TIME_S"]) >= 600


def test_a_job_is_meant_by_name_or_by_a_beginning_that_only_one_has() -> None:
    jobs = ["mine-1a", "mine-1a2", "other-3"]
    assert match_job("mine-1a", jobs, "here") == "mine-1a"
    assert match_job("oth", jobs, "here") == "other-3"
    with pytest.raises(ConfigError, match="could be mine-1a, mine-1a2"):
        match_job("mine", jobs, "here")
    with pytest.raises(ConfigError, match="'x' is not here"):
        match_job("x", jobs, "here")
