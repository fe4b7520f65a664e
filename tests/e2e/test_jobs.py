"""Recipes as jobs on a real head of Ray that has a token and lacks this project."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import preloaded
import pytest
from breaking_proxy import breaking_proxy
from mlflow.tracking import MlflowClient
from paced_workload import write_pace
from ray_head import RayHead, ray_head
from shards import write_shards
from toyland import install_toyland

from orchestrator.cluster.jobs.history import JobRecord, JobRegister

TESTS = Path(__file__).parents[1]
NOBODY = "127.0.0.1:9"
"""Nothing listens at the port of the protocol `discard`."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
STEPS = 60
NEVER = 10**9

pytestmark = pytest.mark.timeout(1800)
RECIPE = f"""\
workload: paced
data: {{train: data/train}}
batch: {{micro_batches: 2, micro_batch_size: 4}}
length: {{steps: {STEPS}}}
stream: {{window: 16}}
scale: {{workers: 1, cpus_per_worker: 0.5}}
checkpoint: {{every_steps: 50}}
pace: pace
"""


@dataclass(frozen=True, slots=True)
class User:
    """A user's folder on a laptop, and a cluster."""

    folder: Path
    head: RayHead

    def cluster(self, name: str, **settings: str) -> str:
        """Write a cluster's file; return its name."""
        usual = {"kind": "local", "market": "owned", "url": self.head.url, "token": self.head.token}
        (self.folder / f"{name}.json").write_text(json.dumps(usual | settings))
        return f"{name}.json"

    def pace(self, seconds: float, hold: int = NEVER) -> None:
        """Say how long a step takes at least, and which one does not begin before this is said anew."""
        write_pace(self.folder / "pace", seconds, hold)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the command line."""
        paths = (TESTS.parent, TESTS / "servers" / "clusters", self.folder / "site")
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "RAY_ADDRESS": "nowhere:1",
            **dict.fromkeys(PROXIES, f"http://{NOBODY}"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line."""
        command = [sys.executable, str(TESTS / "servers" / "clusters" / "fuseray_here.py"), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **pipes)

    def fuseray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return preloaded.fuseray(
            *arguments,
            folder=self.folder,
            environment=self.environment,
            timeout_s=1200,
            prepare="fuseray_here:use_here",
        )

    @property
    def register(self) -> JobRegister:
        """What the laptop remembers."""
        return JobRegister(self.folder / "state" / "fuseray" / "jobs")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    folder = tmp_path_factory.mktemp("laptop")
    write_shards(str(folder / "data"), 64)
    install_toyland(folder / "site")
    (folder / "mine.yaml").write_text(RECIPE)
    with ray_head() as head:
        user = User(folder, head)
        user.pace(0)
        user.cluster("lab")
        yield user


def test_a_job_is_followed_over_a_connection_that_breaks_to_its_end_and_exit_code(user: User) -> None:
    budget = ("budget.hours=0.006", "length.steps=100000")
    with breaking_proxy(user.head.port, once(b"step 1/")) as proxy:
        through = user.cluster("proxied", url=f"http://127.0.0.1:{proxy.port}")
        done = user.fuseray("submit", "mine.yaml", "--cluster", through, "name=whole", *budget)
        assert done.returncode == 3, done.stderr
        assert proxy.cuts == 1
    assert done.stderr.count("the connection is lost") == 1
    (entry,) = user.register.entries()
    log = user.fuseray("logs", entry.job, "--cluster", "lab.json").stdout
    assert "step 1/100000 loss" in log
    assert "budget.hours" in log
    assert done.stdout == f"{log}job {entry.job}: failed, exit code 3\n"
    shown = user.fuseray("status", entry.job, "--cluster", "lab.json", "--json")
    assert json.loads(shown.stdout)["exit_code"] == 3
    assert json.loads((user.folder / "runs" / "whole" / "run.json").read_text())["status"] == "KILLED"


def test_nothing_is_submitted_that_this_machine_or_the_cluster_finds_wrong(user: User) -> None:
    here = user.fuseray("submit", "mine.yaml", "--cluster", "lab.json", "name=bad", "data.train=nowhere")
    assert here.returncode == 2
    assert "nowhere: does not exist" in here.stderr
    places = (f"storage.uri={user.folder}/runs", f"tracking.uri=sqlite:///{user.folder}/runs/mlflow.db")
    far = user.cluster("far", kind="launcher")
    there = user.fuseray(
        "submit", "mine.yaml", "--cluster", far, "name=bad", "data.train=/nowhere", f"pace={user.folder}/pace", *places
    )
    assert there.returncode == 2
    assert "data, from the cluster" in there.stderr
    assert "/nowhere: does not exist" in there.stderr
    assert "nothing was submitted" in there.stderr
    assert "bad" not in [entry.run for entry in user.register.entries()]


def test_a_job_is_left_alone_stopped_with_a_checkpoint_and_continued(user: User) -> None:
    user.pace(0, hold=12)
    job = _submitted_although_the_answer_is_lost(user, "name=halves")
    left = _watch_until(user, job, "step 11/")
    _check_that_a_second_driver_leaves_it_alone(user)
    user.pace(2)
    assert left.returncode == 130
    assert f"fuseray stop {job}" in left.stderr

    shown = json.loads(user.fuseray("status", "halves", "--json").stdout)
    assert shown["status"] == "RUNNING"
    assert shown["step"] >= 11
    stopped = json.loads(user.fuseray("stop", "halves", "--json").stdout)
    assert stopped["status"] == "STOPPED"
    assert shown["step"] <= stopped["step"] < STEPS
    saved = sorted(path.name for path in (user.folder / "runs" / "halves" / "checkpoints").iterdir())
    assert saved[-1] == f"step-{stopped['step']:08d}"

    user.pace(0)
    done = user.fuseray("submit", "mine.yaml", "--cluster", "lab.json", "--resume", "halves")
    assert done.returncode == 0, done.stderr
    assert f"run halves continues at step {stopped['step']} of {STEPS}" in done.stdout
    assert f"The run is finished after {STEPS} steps." in done.stdout
    assert done.stdout.endswith(": succeeded, exit code 0\n")


def test_a_wrong_token_is_refused_and_nothing_is_remembered(user: User) -> None:
    before = user.register.entries()
    wrong = user.cluster("wrong", token="0" * 64)
    for arguments in (("submit", "mine.yaml", "name=never"), ("jobs",), ("status", "whole")):
        done = user.fuseray(*arguments, "--cluster", wrong)
        assert done.returncode == 1
        assert "the job server refuses the token" in done.stderr
        assert "Traceback" not in done.stderr
    assert user.register.entries() == before
    assert not (user.folder / "runs" / "never").exists()
    assert user.fuseray("jobs", "--cluster", "lab.json").returncode == 0


def test_a_job_that_the_head_forgot_is_said_to_be_lost(user: User) -> None:
    file = str(user.folder / "lab.json")
    user.register.add(
        JobRecord(
            job="ghost-1",
            cluster_file=file,
            cluster="lab",
            run="ghost",
            run_folder="/runs/ghost",
            recipe="/mine.yaml",
            submitted="2026-01-01T00:00:00+00:00",
        )
    )
    listed = {row["job"]: row["status"] for row in json.loads(user.fuseray("jobs", "--json").stdout)["jobs"]}
    assert listed["ghost-1"] == "LOST"
    for verb in ("status", "logs", "stop"):
        done = user.fuseray(verb, "ghost")
        assert done.returncode == 1
        assert f"`fuseray submit /mine.yaml --cluster {file} --resume ghost`" in done.stderr


def _check_that_a_second_driver_leaves_it_alone(user: User) -> None:
    folder = user.folder / "runs" / "halves"
    before = (folder / "run.json").read_text()
    same = (f"data.train={user.folder}/data/train", f"pace={user.folder}/pace")
    second = user.fuseray("train", "mine.yaml", "--resume", "halves", *same)
    assert second.returncode == 1
    assert re.search(r"halves: process \d+ on .* works on it since .* stop it .* --resume\. Nothing", second.stderr)
    assert (folder / "run.json").read_text() == before
    run = json.loads(before)
    assert (
        MlflowClient(f"sqlite:///{user.folder}/runs/mlflow.db").get_run(run["mlflow_run_id"]).info.status == "RUNNING"
    )


def _submitted_although_the_answer_is_lost(user: User, override: str) -> str:
    """Submit a job over a connection that breaks when the job server says that it took it; return the job."""
    with breaking_proxy(user.head.port, once(b'"submission_id"')) as proxy:
        through = user.cluster("broken", url=f"http://127.0.0.1:{proxy.port}")
        sent = user.fuseray("submit", "mine.yaml", "--cluster", through, override, "--detach", "--json")
        assert sent.returncode == 0, sent.stderr
        assert proxy.cuts == 1
    job = str(json.loads(sent.stdout)["job"])
    user.cluster("broken")
    jobs = json.loads(user.fuseray("jobs", "--cluster", "lab.json", "--json").stdout)["jobs"]
    assert [row["job"] for row in jobs if row["run"] == "halves"] == [job]
    return job


def once(words: bytes) -> Callable[[bytes], bool]:
    """Return what says True the first time that it hears some words."""
    heard: list[bool] = []

    def listen(content: bytes) -> bool:
        if heard or words not in content:
            return False
        heard.append(True)
        return True

    return listen


def _watch_until(user: User, job: str, words: str) -> subprocess.CompletedProcess[str]:
    """Follow a job's log until some words come, then press Ctrl-C."""
    with user.start("logs", job, "-f") as watching:
        assert watching.stdout is not None
        for line in watching.stdout:
            if words in line:
                break
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=600)
    return subprocess.CompletedProcess((), watching.returncode, out, err)
