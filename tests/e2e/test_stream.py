"""A run that streams from an object store, is stopped twice by Ctrl-C, and is none the worse for it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import preloaded
import pytest
from mlflow_database import new_database
from s3_server import S3Server
from waiting import wait_for

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.run_writer import TrackedRun

STEPS = 16
PATIENCE_S = 600.0
RECIPE = f"""\
workload: albef
batch: {{micro_batches: 2, micro_batch_size: 8}}
length: {{steps: {STEPS}}}
scale: {{cpus_per_worker: 0.5, object_store_mb: 300}}
stream: {{chunk: 4, window: 32, audit: true}}
precision: float64
model:
  preset: tiny
  image_size: 32
  vision: {{width: 64, depth: 2, heads: 2}}
  text: {{width: 64, layers: 1, fusion_layers: 1, heads: 2}}
  text_weights: null
text: {{max_tokens: 12}}
contrastive: {{queue_size: 64}}
adversarial: {{steps: 1, init: uniform, active: [0.5, 1.0]}}
optimizer: {{learning_rate: 1e-3, clip_norm: 1.0}}
checkpoint: {{every_steps: 100}}
"""
SAME = ("loss", "loss_itc", "loss_itm", "loss_mlm", "gradient_norm", "temperature")


class User:
    """Someone with a folder, a bucket and credentials."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        self.folder, self.server, self.bucket = folder, server, server.make_bucket()
        self.environment = {**os.environ, **server.environment()}

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return preloaded.fuseray(
            *arguments, folder=self.folder, environment={**self.environment, **(environment or {})}
        )

    def run_until_interrupted(self, *arguments: str, begun: Callable[[], bool]) -> int:
        """Press Ctrl-C, a signal to the whole group, once a run has begun; return its exit code."""
        command = [sys.executable, "-m", "orchestrator.cli", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=self.folder, env=self.environment, start_new_session=True, **quiet)
        try:
            wait_for(lambda: begun() or process.poll() is not None, PATIENCE_S)
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            return process.wait(timeout=PATIENCE_S)
        finally:
            process.kill()

    def run_folder(self, name: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(locate(f"s3://{self.bucket}/runs/{name}", self.server.endpoint))

    def curves(self, name: str) -> dict[str, tuple[list[int], list[float]]]:
        """Return the steps and values of every metric that a run has logged."""
        run_id = self.run_folder(name).read().mlflow_run_id
        return TrackedRun(f"sqlite:///{self.folder}/runs/mlflow.db", run_id).curves()


@pytest.fixture
def user(trainer: User, log_in: Callable[[S3Server], None]) -> User:
    """The user, with whose credentials this process looks at the bucket."""
    log_in(trainer.server)
    return trainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, seaweedfs_server: S3Server) -> User:
    """A user whose drawings are two data sets in a bucket, and whose runs go there too."""
    user = User(tmp_path_factory.mktemp("user"), seaweedfs_server)
    places = f"""\
data:
  mix:
    - {{uri: "s3://{user.bucket}/one/train", weight: 2}}
    - {{uri: "s3://{user.bucket}/two/train", weight: 1}}
storage: {{uri: "s3://{user.bucket}/runs", endpoint: "{seaweedfs_server.endpoint}"}}
"""
    new_database(user.folder / "runs" / "mlflow.db")
    (user.folder / "recipe.yaml").write_text(RECIPE + places)
    for name, shard_format, limit in (("one", "webdataset", "120"), ("two", "parquet", "60")):
        options = ["--endpoint", seaweedfs_server.endpoint, "--format", shard_format, "--samples-per-shard", "40"]
        built = user.run("data", "emoji", f"s3://{user.bucket}/{name}", "--limit", limit, *options)
        assert built.returncode == 0, built.stderr
    return user


@pytest.mark.timeout(1800)
def test_stopped_and_resumed_with_another_number_of_workers_a_run_is_the_same(user: User) -> None:
    whole = user.run("train", "recipe.yaml", "name=whole", "scale.workers=2")
    assert whole.returncode == 0, whole.stderr

    parts = user.run_folder("parts")
    first = user.run_until_interrupted("train", "recipe.yaml", "name=parts", "scale.workers=2", begun=parts.exists)
    assert first == 130
    assert parts.read().status == "KILLED"
    assert 0 < len(user.curves("parts")["loss"][0]) == parts.newest_step() < STEPS
    second = user.run("train", "recipe.yaml", "--resume", "parts", "scale.workers=1")
    assert second.returncode == 0, second.stderr
    assert parts.read().status == "FINISHED"

    for name in ("whole", "parts"):
        audit = user.run("audit", f"s3://{user.bucket}/runs/{name}", "--endpoint", user.server.endpoint, "--json")
        assert audit.returncode == 0, audit.stderr + audit.stdout
        found = json.loads(audit.stdout)
        assert (found["exact"], found["micro_batches"], found["samples"]) == (True, 2 * STEPS, 16 * STEPS)
    once, again = user.curves("whole"), user.curves("parts")
    assert once["loss_adversarial"][0] == again["loss_adversarial"][0] == list(range(STEPS // 2, STEPS))
    for name in SAME:
        assert again[name][0] == list(range(STEPS)), name
        assert again[name][1] == pytest.approx(once[name][1], rel=1e-5), name


@pytest.mark.timeout(900)
def test_wrong_credentials_are_refused_at_once_and_never_shown(user: User) -> None:
    wrong = {"AWS_SECRET_ACCESS_KEY": "not-the-secret-key-that-is-right"}
    done = user.run("train", "recipe.yaml", "--dry-run", environment=wrong)
    assert done.returncode == 2
    assert "credentials" in done.stderr
    assert "Traceback" not in done.stderr
    for secret in (*wrong.values(), user.server.access_key, user.server.secret_key):
        assert secret not in done.stderr + done.stdout
