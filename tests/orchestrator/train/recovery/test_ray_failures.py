"""Errors as Ray raises them when a process is killed, runs out of memory or raises: a change of Ray shows here."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import ray
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from orchestrator.config.errors import FuserayError
from orchestrator.ray_internals import without_unused_processes
from orchestrator.train.recovery.classify import diagnose_error
from orchestrator.train.recovery.diagnosis import Diagnosis, FailureKind, RetryBudget

Errors = dict[str, Exception]

AT_ONCE = {"memory_usage_threshold": 0.01, "memory_monitor_refresh_ms": 100}
"""Ray's memory monitor ends workers when a hundredth of the machine's memory is in use, which it always is."""


class Doomed:
    """Stands for a training worker."""

    def kill_itself(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()

    def wait(self) -> None:
        threading.Event().wait()

    def raise_error(self, error: Exception) -> None:
        raise error


class Unmade:
    """Raises in its constructor."""

    def __init__(self, text: str) -> None:
        raise ValueError(text)

    def wait(self) -> None: ...


class ElsewhereOnly:
    """Stands for an argument whose module a worker lacks."""

    def __reduce__(self) -> tuple[object, ...]:
        return import_module, ("module_of_another_machine",)


@contextmanager
def small_ray(system_config: dict[str, Any] | None = None) -> Iterator[Callable[[], Any]]:
    """Run the body with a Ray; it is given what starts an actor."""
    with without_unused_processes():
        ray.init(num_cpus=2, object_store_memory=100_000_000, _system_config=system_config, log_to_driver=False)
    try:
        yield lambda: ray.remote(num_cpus=0)(Doomed).remote()
    finally:
        ray.shutdown()


def error_of(reference: Any) -> Exception:
    """The error that waiting for a result gives."""
    try:
        ray.get(reference, timeout=400)
    except Exception as error:
        return error
    raise AssertionError("nothing failed")


@pytest.fixture(scope="module")
def errors() -> Errors:
    """What Ray raises for each way to fail."""
    with small_ray() as start:
        killed, ended, raising = start(), start(), start()
        running = {"killed": killed.kill_itself.remote(), "ended": ended.wait.remote()}
        running["odd"] = raising.raise_error.remote(ValueError("odd value\nand more"))
        running["unmade"] = ray.remote(num_cpus=0)(Unmade).remote("odd value\nConnection reset by peer").wait.remote()
        running["unread"] = ray.remote(num_cpus=0)(Unmade).remote(ElsewhereOnly()).wait.remote()
        running["ours"] = raising.raise_error.remote(FuserayError("disk full; free some space"))
        ray.kill(ended)
        found = {name: error_of(reference) for name, reference in running.items()}
    with small_ray(AT_ONCE) as start:
        return found | {"low memory": error_of(start().wait.remote())}


def of_worker(error: Exception) -> Diagnosis:
    """The diagnosis when worker 1 ended with an error, and worker 0 lost its connection to it."""
    lost = WorkerHealthCheckFailedError("A worker health check failed.", error)
    return diagnose_error(WorkerGroupError("failed", {0: RuntimeError("Connection reset by peer"), 1: lost}))


@pytest.mark.parametrize("name", ["killed", "ended"])
def test_a_killed_process_is_a_lost_worker(errors: Errors, name: str) -> None:
    found = of_worker(errors[name])
    assert (found.kind, found.budget, found.ranks) == (FailureKind.WORKER_LOST, RetryBudget.MACHINE_FAULTS, (1,))
    assert found.error.startswith("ActorDiedError: The actor is dead because")


def test_a_process_that_the_memory_monitor_ended_ran_out_of_memory(errors: Errors) -> None:
    found = of_worker(errors["low memory"])
    assert (found.kind, found.budget, found.ranks) == (FailureKind.OUT_OF_MEMORY, RetryBudget.MACHINE_FAULTS, (1,))
    assert found.hosts == (ray.util.get_node_ip_address(),)


def test_an_error_in_a_task_is_the_error_itself(errors: Errors) -> None:
    found = diagnose_error(WorkerGroupError("failed", {0: errors["odd"], 1: errors["killed"]}))
    assert (found.kind, found.is_retryable, found.error) == (FailureKind.USER_ERROR, False, "ValueError: odd value")
    named = diagnose_error(WorkerGroupError("failed", {0: errors["odd"], 1: errors["ours"]}))
    assert (named.error, named.ranks) == ("disk full; free some space", (1,))


@pytest.mark.parametrize(
    ("name", "text"), [("unmade", "ValueError: odd value"), ("unread", "No module named 'module_of_another_machine'")]
)
def test_what_an_actor_raised_while_it_was_made_is_told_and_not_retried(errors: Errors, name: str, text: str) -> None:
    startup = WorkerGroupStartupFailedError("a worker failed to initialize")
    startup.__cause__ = errors[name]
    for found in (of_worker(errors[name]), diagnose_error(errors[name]), diagnose_error(ControllerError(startup))):
        assert (found.kind, found.is_retryable) == (FailureKind.USER_ERROR, False)
        assert text in found.error


def test_an_actor_that_a_worker_waited_for_is_not_the_worker(errors: Errors) -> None:
    found = diagnose_error(WorkerGroupError("failed", {0: errors["killed"]}))
    assert (found.kind, found.ranks) == (FailureKind.WORKER_LOST, ())
