"""Runs a plan on Ray and keeps its books: MLflow, quarantine, status. One driver per run."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.feed import Opening
from orchestrator.stream.placement import Node, decoded_share
from orchestrator.stream.segment import Delivery, warm_up
from orchestrator.track.tracker import Tracker
from orchestrator.train.books import Books
from orchestrator.train.channel import Channel
from orchestrator.train.display import Display
from orchestrator.train.failure import explained, failure_of
from orchestrator.train.interrupts import stop_on
from orchestrator.train.plan import Plan, check_machines
from orchestrator.train.ray_session import ray_session
from orchestrator.train.recovery.order import Order
from orchestrator.train.start import Start
from orchestrator.train.trainer import make_trainer
from orchestrator.train.worker import Assignment

POLL_S = 0.2
REFRESH_EVERY_POLLS = 25
"""Looks at the workers for each look at the machines."""


class MachineWatch(Protocol):
    """Looks after all machines of the cluster, those that join later too, and drains those that will be taken away."""

    def start(self) -> None:
        """Begin; Ray is connected."""
        ...

    def refresh(self) -> tuple[str, ...]:
        """Take in machines that joined; return messages for people."""
        ...

    def stop(self) -> None:
        """End."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: FINISHED, or KILLED when it was asked to stop."""

    status: str
    steps_done: int


def run(plan: Plan, start: Start, display: Display, machines: MachineWatch | None = None) -> Outcome:
    """Train until the plan is done, a signal asks to stop, or something fails for good.

    Args:
        plan: what to do.
        start: whether this is a new run or the continuation of one.
        display: shows progress.
        machines: looks for notices of preemption; None when nobody in this run does.

    Raises:
        TrainingError: the run failed; the message says why and where the log is.
        TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was started.
    """
    interrupted = threading.Event()
    with stop_on(signal.SIGINT, interrupted):
        books = _open_books(plan, start, display)
        status = "FAILED"
        log = log_folder(plan) / "ray.log"
        try:
            with (
                ray_session(plan.recipe.scale, os.cpu_count() or 1, log, plan.recipe.recovery),
                stop_on(signal.SIGTERM, interrupted),  # Ray sets a handler of its own when it starts
            ):
                _run_on_ray(plan, start, books, machines, interrupted)
            status = "FINISHED" if books.steps_done >= plan.steps else "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Exception as error:
            failure = failure_of(error, books.last_fault, plan, log)
            books.failed(failure)
            raise explained(failure, plan) from error
        finally:
            books.close(status)
    return Outcome(status, books.steps_done)


def log_folder(plan: Plan) -> Path:
    """Return the local folder for a run's logs: in the run's folder when that is local."""
    if plan.run.root.is_local:
        return Path(plan.run.root.path) / "logs"
    return Path.home() / ".local" / "state" / "fuseray" / plan.recipe.name


def _open_books(plan: Plan, start: Start, display: Display) -> Books:
    recipe = plan.recipe
    if start.previous is None:
        tracker = Tracker.start(
            recipe.tracking.uri,
            recipe.tracking.experiment,
            recipe.name,
            {"run_folder": plan.run.root.uri},
            display.message,
            recipe.tracking.artifacts,
        )
        file = RunFile(
            name=recipe.name,
            recipe_digest=plan.resolved.digest(),
            index_digest=plan.data.digest,
            tracking_uri=recipe.tracking.uri,
            mlflow_run_id=tracker.run_id,
            steps=plan.steps,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            status="RUNNING",
        )
    else:
        file = replace(start.previous, status="RUNNING", ended="")
        tracker = Tracker.resume(file.tracking_uri, file.mlflow_run_id, display.message)
    tracker.params(plan.resolved.values())
    return Books(plan, file, tracker, display, start.first_step)


def _run_on_ray(
    plan: Plan, start: Start, books: Books, machines: MachineWatch | None, interrupted: threading.Event
) -> None:
    nodes = _nodes()
    check_machines(plan.recipe, nodes)
    books.machines(len(nodes), plan.recipe.scale.most_workers)
    if machines is not None:
        machines.start()
    try:
        _train(plan, books, _assignment(plan, start, books), machines, interrupted)
    finally:
        if machines is not None:
            machines.stop()


def _nodes() -> list[Node]:
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in resources]


def _assignment(plan: Plan, start: Start, books: Books) -> Assignment:
    """Return what the workers are told; reading starts up in the meantime, in the background."""
    delivery = plan.delivery(_decoded_share(plan))
    number = start.first_step * plan.recipe.batch.micro_batches
    threading.Thread(target=_warm_up, args=(delivery, number), daemon=True, name="stream-warm-up").start()
    scale, opening = plan.recipe.scale, None
    if scale.fewest_workers == scale.most_workers:
        opening = Opening.of(delivery, plan.sharing(start.first_step, scale.most_workers))
    return Assignment(plan, books.mlflow_run_id, _channel(), delivery.decoded_share, opening)


def _channel() -> Any:
    """Start the channel on the driver's own machine, so that no other one can take it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Channel)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()


def _warm_up(delivery: Delivery, number: int) -> None:
    with suppress(Exception):  # what fails here fails again where it is needed, and is explained there
        warm_up(delivery, number)


def _train(
    plan: Plan, books: Books, assignment: Assignment, machines: MachineWatch | None, interrupted: threading.Event
) -> None:
    """Run Ray Train in a thread, so that this one can watch; Ray's own interrupt handler would drop the checkpoint."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            make_trainer(plan, assignment, log_folder(plan)).fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    polls = 0
    while thread.is_alive():
        thread.join(POLL_S)
        if interrupted.is_set():
            assignment.channel.request.remote(Order.STOP)
        _enter_news(books, assignment)
        polls += 1
        if machines is not None and polls % REFRESH_EVERY_POLLS == 0:
            books.enter(machines.refresh())
    _enter_news(books, assignment)
    if failure:
        raise failure[0]


def _enter_news(books: Books, assignment: Assignment) -> None:
    books.enter(ray.get(assignment.channel.drain.remote()))
    if books.attempts > 1 and assignment.opening is not None:
        assignment.opening.end()


def _decoded_share(plan: Plan) -> float:
    scale = plan.recipe.scale
    return decoded_share(
        plan.recipe.stream.decode_on, _nodes(), scale.most_workers, scale.cpus_per_worker, plan.decode_threads
    )
