"""Runs a plan on Ray and keeps its books: MLflow, quarantine, status. One driver per run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from orchestrator.spec.recipe import Recipe
from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.feed import Opening
from orchestrator.stream.placement import Node, decoded_share
from orchestrator.stream.segment import Delivery, warm_up
from orchestrator.track.tracker import Tracker
from orchestrator.train.books import Books
from orchestrator.train.channel import Channel
from orchestrator.train.display import Display
from orchestrator.train.failure import explain
from orchestrator.train.plan import Plan, check_machines
from orchestrator.train.ray_session import ray_session
from orchestrator.train.start import Start
from orchestrator.train.worker import Assignment, train

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: FINISHED, or KILLED when it was asked to stop."""

    status: str
    steps_done: int


def run(plan: Plan, start: Start, display: Display) -> Outcome:
    """Train until the plan is done, the user interrupts, or something fails.

    Args:
        plan: what to do.
        start: whether this is a new run or the continuation of one.
        display: shows progress.

    Raises:
        TrainingError: the run failed; the message says why and where the log is.
        TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was started.
        SpecError: the cluster is too small; nothing was started.
    """
    with _stop_on_interrupt() as interrupted:
        books = _open_books(plan, start, display)
        status = "FAILED"
        log = log_folder(plan) / "ray.log"
        try:
            with ray_session(plan.recipe.scale, os.cpu_count() or 1, log):
                check_machines(plan.recipe, _nodes())
                books.machines(len(_nodes()), plan.recipe.scale.workers)
                _train(plan, books, _assignment(plan, start, books), interrupted)
            status = "FINISHED" if books.steps_done >= plan.steps else "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Exception as error:
            raise explain(error, log) from error
        finally:
            books.close(status)
    return Outcome(status, books.steps_done)


def _nodes() -> list[Node]:
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in resources]


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


def _assignment(plan: Plan, start: Start, books: Books) -> Assignment:
    """Return what the workers are told; reading starts up in the meantime, in the background."""
    delivery = plan.delivery(_decoded_share(plan))
    number = start.first_step * plan.recipe.batch.micro_batches
    threading.Thread(target=_warm_up, args=(delivery, number), daemon=True, name="stream-warm-up").start()
    channel = ray.remote(num_cpus=0)(Channel).remote()
    opening = Opening.of(delivery, plan.sharing(start.first_step, plan.recipe.scale.workers))
    return Assignment(plan, books.mlflow_run_id, channel, delivery.decoded_share, opening)


def _warm_up(delivery: Delivery, number: int) -> None:
    with suppress(Exception):  # what fails here fails again where it is needed, and is explained there
        warm_up(delivery, number)


def _train(plan: Plan, books: Books, assignment: Assignment, interrupted: threading.Event) -> None:
    """Run Ray Train in a thread, so that this one can watch; Ray's own interrupt handler would drop the checkpoint."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(plan, assignment).fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    asked = False
    while thread.is_alive():
        thread.join(POLL_S)
        if interrupted.is_set() and not asked:
            asked = True
            assignment.channel.request_stop.remote()
        books.enter(ray.get(assignment.channel.drain.remote()))
    books.enter(ray.get(assignment.channel.drain.remote()))
    if failure:
        raise failure[0]


def _decoded_share(plan: Plan) -> float:
    scale = plan.recipe.scale
    return decoded_share(
        plan.recipe.stream.decode_on, _nodes(), scale.workers, scale.cpus_per_worker, plan.decode_threads
    )


def _trainer(plan: Plan, assignment: Assignment) -> TorchTrainer:
    recipe = plan.recipe
    return TorchTrainer(
        train,
        train_loop_config={"assignment": assignment},
        scaling_config=ScalingConfig(
            num_workers=recipe.scale.workers,
            use_gpu=recipe.scale.use_gpu,
            resources_per_worker=_resources(recipe),
        ),
        run_config=RunConfig(
            name=f"{recipe.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}", storage_path=str(log_folder(plan) / "ray-train")
        ),
    )


def _resources(recipe: Recipe) -> dict[str, float]:
    resources = {"CPU": recipe.scale.cpus_per_worker}
    return resources | {"GPU": 1.0} if recipe.scale.use_gpu else resources


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Turn the first interrupt into a wish to stop; a second one interrupts for real."""
    interrupted = threading.Event()
    previous: Callable[[int, FrameType | None], Any] | int | None = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
