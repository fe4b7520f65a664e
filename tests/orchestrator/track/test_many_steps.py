"""Long runs: histories of several pages, and more steps than memory is for."""

import itertools
from pathlib import Path

import pytest
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from tracking import NOON_MS, line, logged, once, points

from orchestrator.storage.location import locate
from orchestrator.track.client import Connection
from orchestrator.track.metric_log import MetricLog
from orchestrator.track.outbox import RejectedKeys
from orchestrator.track.payloads import CatchUpDelivery, StepsDelivery
from orchestrator.track.run_writer import MAX_METRICS_PER_CALL, Points, StepSender, in_batches

MORE_THAN_A_PAGE = 25_300


@pytest.fixture
def sender(sqlite_uri: str) -> StepSender:
    client = MlflowClient(sqlite_uri)
    experiment = client.get_experiment_by_name("many") or client.get_experiment(client.create_experiment("many"))
    return new_sender(sqlite_uri, client.create_run(experiment.experiment_id).info.run_id)


def new_sender(uri: str, run_id: str) -> StepSender:
    return StepSender(Connection(uri, run_id), RejectedKeys(print))


def test_the_steps_of_a_long_run_are_all_found(sender: StepSender, sqlite_uri: str) -> None:
    run_id = sender._connection.run_id
    steps = [step for step in range(MORE_THAN_A_PAGE) if step != 777]
    for start in range(0, len(steps), 1000):
        some = [Metric("samples", 16.0, NOON_MS + step, step) for step in steps[start : start + 1000]]
        MlflowClient(sqlite_uri).log_batch(run_id, metrics=some)
    assert list(sender.present()) == steps
    sender.send([points(step) for step in range(770, 780)])
    assert sender.sent == 1
    assert list(sender.present()) == list(range(MORE_THAN_A_PAGE))


def test_batches_hold_whole_steps() -> None:
    steps = [points(step, **{f"m{number}": 0.0 for number in range(249)}) for step in range(10)]
    huge = points(10, **{f"m{number}": 0.0 for number in range(2000)})
    batches = list(in_batches([*steps, huge]))
    assert [len(batch) for batch in batches] == [3, 3, 3, 1, 1]
    assert max(sum(len(step.values) + 1 for step in batch) for batch in batches[:4]) <= MAX_METRICS_PER_CALL
    assert list(itertools.chain.from_iterable(batches)) == [*steps, huge]


def test_a_step_with_more_metrics_than_a_request_takes_arrives(sender: StepSender, sqlite_uri: str) -> None:
    names = [f"m{number}" for number in range(950)]
    sender.send([points(0, **dict.fromkeys(names, 1.0))])
    assert logged(sqlite_uri, sender._connection.run_id) == once(range(1), "samples", *names)


def test_a_step_of_which_a_store_has_a_part_is_completed(sender: StepSender, sqlite_uri: str) -> None:
    run_id = sender._connection.run_id
    sender.send([points(step, a=1.0, b=1.0) for step in (0, 1, 5)])
    client = MlflowClient(sqlite_uri)
    for step, name in ((2, "b"), (6, "a")):
        client.log_batch(run_id, metrics=[Metric(name, 1.0, NOON_MS - 1, step)])
    new_sender(sqlite_uri, run_id).send([points(step, a=1.0, b=1.0) for step in (2, 3, 4)])
    new_sender(sqlite_uri, run_id).send([points(step, a=1.0, b=1.0) for step in (6, 7)])
    assert logged(sqlite_uri, run_id) == once(range(8), "a", "b", "samples")


def test_steps_that_memory_is_not_for_come_from_the_log(sender: StepSender, sqlite_uri: str, tmp_path: Path) -> None:
    steps = StepsDelivery(sender, most=5)
    log = MetricLog(locate(str(tmp_path)))
    for step in range(8):
        steps.add(points(step))
        log.add(line(step))
    log.flush()
    assert steps.spilled_steps == 3
    assert [one.step for one in steps.unsent()] == [3, 4, 5, 6, 7]
    assert steps.attempt()
    catch_up = CatchUpDelivery(sender, locate(str(tmp_path)), lambda lines: (Points(one, one.metrics) for one in lines))
    assert [catch_up.attempt(), catch_up.attempt()] == [False, True]
    assert logged(sqlite_uri, sender._connection.run_id) == once(range(8), "loss", "samples")
