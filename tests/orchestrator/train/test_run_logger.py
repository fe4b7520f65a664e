"""The logger of a run over crashes and with MLflow away, and `fuseray sync` afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from mlflow_server import MlflowServer
from postgres_server import PostgresServer
from s3_server import S3Server
from shards import write_shards
from tracking import Pauses, logged
from unreliable_proxy import Fault, UnreliableProxy, unreliable

from orchestrator.cli.main import cli
from orchestrator.config.loading import load_recipe
from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.micro_batch import SkippedSample
from orchestrator.track.metric_log import Event, MetricLog, read_metric_log
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.run_writer import TrackedRun
from orchestrator.track.tracker import Tracker
from orchestrator.train.control_channel import StepRecord
from orchestrator.train.plan import Plan, make_plan
from orchestrator.train.run_logger import RunLogger

RECIPE = """\
workload: albef
batch: {micro_batches: 2, micro_batch_size: 8}
length: {epochs: 3}
scale: {cpus_per_worker: 0.5}
model: {preset: tiny}
"""
START_MS = 1_767_225_600_000


@dataclass
class Screen:
    """Keeps what the user is shown."""

    messages: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def log(self, text: str) -> None:
        self.messages.append(text)

    def step(self, record: StepRecord, skipped: int) -> None:
        self.steps.append(record.step)


@dataclass
class Run:
    """A run without workers: the test plays their part."""

    plan: Plan
    uri: str
    screen: Screen = field(default_factory=Screen)
    file: RunFile | None = None
    tracker: Tracker | None = None

    def begin(self, first_step: int = 0) -> RunLogger:
        """Start or resume it."""
        outboxes = Pauses().outboxes()
        if self.file is None:
            self.tracker = Tracker.start(self.uri, "e", "run", {}, self.screen.log, outboxes=outboxes)
            self.file = RunFile(
                "run", "d", "i", self.uri, self.tracker.run_id, self.plan.steps, "2026-01-01T00:00:00+00:00", "RUNNING"
            )
        else:
            self.tracker = Tracker.resume(self.uri, self.file.mlflow_run_id, self.screen.log, outboxes)
        return RunLogger(self.plan, self.file, self.tracker, self.screen, first_step)

    @property
    def folder(self) -> str:
        return self.plan.run.root.uri

    def curves(self, uri: str) -> dict[str, list[int]]:
        assert self.file is not None
        found = TrackedRun(uri, self.file.mlflow_run_id).curves()
        return {name: steps for name, (steps, _) in found.items()}


def record(step: int, skipped: tuple[SkippedSample, ...] = ()) -> StepRecord:
    return StepRecord(
        step, {"loss": 1.0 / (step + 1)}, {"data_wait": 0.25, "step": 0.75}, 16, skipped, time_ms=START_MS + 2000 * step
    )


def save(run: Run, *steps: int) -> None:
    """Do what worker 0 does just before a checkpoint is committed."""
    log = MetricLog(run.plan.run.metrics)
    for step in steps:
        log.add(record(step).line())
    log.flush()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    folder = write_shards(str(tmp_path / "data"), 50)
    path = tmp_path / "run.yaml"
    path.write_text(RECIPE)
    return make_plan(load_recipe(path, [f"data.train={folder}", f"storage.uri={tmp_path / 'runs'}"]))


@pytest.fixture
def proxy(mlflow_on_sqlite: MlflowServer) -> Iterator[UnreliableProxy]:
    with unreliable(S3Server(mlflow_on_sqlite.uri)) as running:
        yield running


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_database(tmp_path_factory.mktemp("logger") / "mlflow.db")


def sync(run: Run) -> dict[str, object]:
    done = CliRunner().invoke(cli, ["sync", run.folder, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found: dict[str, object] = json.loads(done.output)
    return found


def test_a_driver_that_dies_leaves_curves_without_scars(plan: Plan, sqlite: str) -> None:
    """Steps 0 to 6 were reported and 0 to 4 saved; MLflow never got 2 to 4; the driver died without a word."""
    run = Run(plan, sqlite)
    first = run.begin()
    first.log_messages(record(step) for step in (0, 1, 5, 6))
    assert run.file is not None
    assert run.tracker is not None
    assert run.tracker.wait(60)
    assert MlflowClient(sqlite).get_run(run.file.mlflow_run_id).info.status == "RUNNING"
    save(run, *range(5))

    second = run.begin(first_step=5)
    second.log_event(Event("recovery", 5, "the driver died", lost_steps=2, downtime_s=9.0, workers=1))
    second.log_messages(record(step) for step in range(5, 10))
    second.close("FINISHED")
    curves = run.curves(sqlite)
    for name in ("loss", "samples", "goodput", "samples_per_s", "data_wait_share", "skipped_samples", "seconds/step"):
        assert curves[name] == list(range(10)), name
    info = MlflowClient(sqlite).get_run(run.file.mlflow_run_id)
    assert info.info.status == plan.run.read().status == "FINISHED"
    assert json.loads(info.data.tags["event/0001"])["reason"] == "the driver died"
    assert info.data.tags["recoveries"] == "1"
    assert run.screen.messages == ["recovery: on with 1 workers at step 5, 2 steps done again, 9 s without a step"]


def test_goodput_goes_on_where_it_was(plan: Plan, sqlite: str) -> None:
    """Steps of one second, done every two seconds: whatever happened to the driver, about half of the time."""
    run = Run(plan, sqlite)
    first = run.begin()
    first.log_messages(record(step) for step in range(5))
    save(run, *range(5))
    first.close("KILLED")
    second = run.begin(first_step=5)
    second.log_messages(record(step) for step in range(5, 10))
    second.close("FINISHED")
    _, goodput = TrackedRun(sqlite, second.mlflow_run_id).curves()["goodput"]
    assert goodput[1:] == pytest.approx([(step + 1) / (2 * step) for step in range(1, 10)])


def test_what_mlflow_lacks_at_the_end_is_kept_and_synced_once(
    plan: Plan, proxy: UnreliableProxy, mlflow_on_sqlite: MlflowServer
) -> None:
    run = Run(plan, proxy.server.endpoint)
    logger = run.begin()
    logger.log_messages(record(step) for step in range(4))
    save(run, *range(4))
    (plan.run.model / "config.json").write(b"{}")
    proxy.plan = lambda _: Fault.RESET
    bad = SkippedSample(5, "shard", "key", "no caption", "")
    logger.log_messages(record(step, (bad,) if step == 4 else ()) for step in range(4, 9))
    logger.log_event(Event("resize", 6, "a node came", lost_steps=0, downtime_s=1.5, workers=2))
    logger.close("FINISHED")
    last = run.screen.messages[-1]
    assert f"`fuseray sync {run.folder}`" in last
    assert [line.step for line in read_metric_log(plan.run.metrics)] == list(range(9))
    away = CliRunner().invoke(cli, ["sync", run.folder])
    assert isinstance(away.exception, TrackingError)
    assert "MLflow cannot be reached" in str(away.exception)

    proxy.plan = lambda _: None
    found = sync(run)
    assert (found["status"], found["status_before"], found["events"]) == ("FINISHED", "RUNNING", 1)
    assert set(found["files"]) >= {"model/config.json"}
    again = sync(run)
    assert (again["steps"], again["files"], again["status_before"]) == (0, [], "FINISHED")

    assert run.file is not None
    counts = logged(mlflow_on_sqlite.uri, run.file.mlflow_run_id)
    assert set(counts.values()) == {1}
    curves = run.curves(mlflow_on_sqlite.uri)
    for name in ("loss", "samples", "goodput", "skipped_samples", "seconds/step"):
        assert curves[name] == list(range(9)), name
    info = MlflowClient(mlflow_on_sqlite.uri).get_run(run.file.mlflow_run_id)
    assert info.data.tags["downtime_s"] == "1.5"
    assert info.data.params["batch.micro_batches"] == "2"
    assert info.info.end_time // 1000 == _seconds(plan.run.read().ended)


def test_a_damaged_log_does_not_keep_a_run_from_going_on(plan: Plan, sqlite: str) -> None:
    run = Run(plan, sqlite)
    run.begin().close("FAILED")
    save(run, 0)
    (plan.run.metrics / "steps-00000001-to-00000001.jsonl").write(b"{")
    second = run.begin(first_step=1)
    second.log_messages([record(1)])
    second.close("FINISHED")
    assert "is damaged" in run.screen.messages[0]
    assert 1 in run.curves(sqlite)["loss"]


def test_the_password_of_a_database_is_nowhere(
    plan: Plan,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = postgres_server.make_database()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    run = Run(plan, "environment")
    logger = run.begin()
    logger.log_machines(1, 1)
    logger.log_messages([record(0)])
    logger.close("FINISHED")
    assert run.file is not None
    data = MlflowClient(uri).get_run(run.file.mlflow_run_id).data
    seen = [str(data.tags), str(data.params), *run.screen.messages, *capfd.readouterr()]
    seen += [path.read_text(errors="replace") for path in Path(run.folder).rglob("*") if path.is_file()]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("postgresql", "postgresql+other"))
    with pytest.raises(TrackingError) as refused:
        Run(plan, "environment").begin()
    seen.append(str(refused.value))
    for secret in (postgres_server.password, postgres_server.password.replace("%40", "@")):
        assert not [text for text in seen if secret in text]
    assert "postgresql+other://" in str(refused.value)


def _seconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp())
