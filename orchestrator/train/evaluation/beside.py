"""Measures checkpoints beside the training: an actor with its own share of CPUs and GPUs, fed by the driver.

The workers mark the checkpoints that are to be measured, and save one at every step that is due. The driver has the
newest of them measured whenever the actor is idle, and skips the older ones, so that a slow evaluation never lags
behind. Retention keeps a marked checkpoint until that is decided.

Ray Train has a validation of its own (`report(..., validation=...)` with `ValidationConfig`). It is not used: it
validates checkpoints that were reported to Ray Train, while ours are committed by our own manifest, so that a run
resumes without Ray's record of it; it queues all of them; and its results go to Ray's own retention, not to ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import checkpoint_step
from orchestrator.stream.unusable import UnusableSample, write_unusable
from orchestrator.train.checkpoints.maintenance import prune
from orchestrator.train.checkpoints.measured import end_wait, measured_later, write_measured
from orchestrator.train.evaluation.of_checkpoint import HowToMeasure, evaluate_checkpoint
from orchestrator.train.plan import Plan
from orchestrator.train.run_logger import RunLogger
from workloads.contract import WorkloadError

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Measured:
    """What the actor found out about a checkpoint.

    Args:
        metrics: as they are logged.
        unusable: held-out samples that cannot be used.
        note: a line about these for the user; may be empty.
    """

    metrics: dict[str, float]
    unusable: tuple[UnusableSample, ...]
    note: str


class BesideActor:
    """Measures one checkpoint at a time; a Ray actor.

    Args:
        how: how to measure.
    """

    def __init__(self, how: HowToMeasure) -> None:
        self._how = how

    def ready(self) -> None:
        """Return once the actor has its place."""

    def measure(self, folder: Location) -> Measured:
        """Measure the checkpoint in a folder."""
        measured = evaluate_checkpoint(folder, self._how).measured
        metrics = {f"held_out/{name}": value for name, value in measured.evaluation.metrics.items()}
        return Measured(metrics, measured.unusable, measured.describe_unusable())


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done about the checkpoints that wait.

    Args:
        measure: the step of the one that is measured next; None for none.
        skip: the steps of those that are not measured at all.
    """

    measure: int | None = None
    skip: tuple[int, ...] = ()


def choose(waiting: Sequence[int], busy: bool) -> Choice:
    """Return what is done about the checkpoints that wait: the newest is measured, as soon as that can begin. Pure.

    Args:
        waiting: their steps, ascending.
        busy: whether another one is being measured.
    """
    if busy or not waiting:
        return Choice()
    return Choice(waiting[-1], tuple(waiting[:-1]))


@dataclass(frozen=True, slots=True)
class _Running:
    folder: Location
    reference: Any
    began_s: float


class BesideEvaluation:
    """Has the checkpoints of a run measured while it trains. Nothing that goes wrong here ends the run.

    Args:
        plan: of the run.
        logger: logs what is measured, and tells the user.
        new_actor: starts an actor of class `BesideActor`.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, plan: Plan, logger: RunLogger, new_actor: Callable[[], Any], clock: Callable[[], float] = monotonic
    ) -> None:
        self._plan = plan
        self._logger = logger
        self._new_actor = new_actor
        self._clock = clock
        self._running: _Running | None = None
        self._start_actor()

    @classmethod
    def of(cls, plan: Plan, logger: RunLogger) -> BesideEvaluation | None:
        """Return the evaluation beside a run, None when its workers measure, or nothing does."""
        section = plan.recipe.evaluation
        if not plan.measures_beside or plan.held_out is None:
            return None
        options = plan.resolved.evaluation.while_training()
        how = HowToMeasure(options, plan.held_out, section.samples, memory_mb=section.memory_mb)
        actor: Any = ray.remote(BesideActor)
        placed = actor.options(num_cpus=section.cpus, num_gpus=section.gpus)
        return cls(plan, logger, lambda: placed.remote(how))

    def poll(self) -> None:
        """Take a result that is there, and begin what can be begun; never waits."""
        try:
            self._take_result()
            self._begin_next()
        except (FuserayError, RayError) as error:  # of the store, which may be back at the next poll
            self._logger.log_messages([f"evaluation beside training: {error}"])

    def finish(self) -> None:
        """Wait until the newest checkpoint that is to be measured has been, and retention has seen that."""
        began_s, limit_s = self._clock(), self._plan.recipe.recovery.hang_s
        self.poll()
        while self._running is not None:
            if self._clock() - began_s > limit_s and not ray.wait([self._ready], timeout=0)[0]:
                self._logger.log_messages(["evaluation beside training is given up: there is no room for its actor"])
                return
            sleep(POLL_S)
            self.poll()
        try:
            prune(self._plan.run, self._plan.recipe.checkpoint, datetime.now(UTC))
        except FuserayError as error:
            self._logger.log_messages([f"old checkpoints could not be removed. {error}"])

    def close(self) -> None:
        """End the actor; a checkpoint that it was measuring stays marked, for the next start of the run."""
        ray.kill(self._actor)

    def _start_actor(self) -> None:
        self._actor = self._new_actor()
        self._ready = self._actor.ready.remote()

    def _take_result(self) -> None:
        running = self._running
        if running is None or not ray.wait([running.reference], timeout=0)[0]:
            return
        self._running = None
        step = checkpoint_step(running.folder)
        try:
            measured: Measured = ray.get(running.reference)
        except RayError as error:
            text = f"evaluation of step {step} beside training failed; training goes on. {_reason(error)}"
            self._logger.log_messages([text])
            if isinstance(error, RayActorError):
                self._start_actor()
        else:
            write_measured(running.folder, measured.metrics)
            self._logger.log_measured(step - 1, measured.metrics, self._clock() - running.began_s)
            self._logger.log_messages([measured.note] if measured.note else [])
            write_unusable(self._plan.run.held_out_quarantine, measured.unusable)
        end_wait(running.folder)

    def _begin_next(self) -> None:
        waiting = {} if self._running else {checkpoint_step(one): one for one in measured_later(self._plan.run)}
        choice = choose(list(waiting), busy=self._running is not None)
        for step in choice.skip:
            self._logger.log_messages([f"evaluation of step {step} is skipped: a newer checkpoint is there"])
            end_wait(waiting[step])
        if choice.measure is not None:
            folder = waiting[choice.measure]
            self._running = _Running(folder, self._actor.measure.remote(folder), self._clock())


def _reason(error: RayError) -> str:
    """Return what is wrong for the user: an error of this project as it is, of others the last line."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, (FuserayError, WorkloadError)):
        return str(error.cause)
    lines = str(error).strip().splitlines() or ["no reason given"]
    return lines[-1] if isinstance(error, RayTaskError) else lines[0]
