"""The training loop that Ray Train runs on every worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from torch import nn

from orchestrator.config.recipe import RecoverySection
from orchestrator.stream.dataset.samples import evenly_spaced_samples
from orchestrator.stream.loader import PrefetchedSegment, StreamLoader
from orchestrator.stream.micro_batch import MicroBatch, SkippedSample
from orchestrator.track.metric_log import now_ms
from orchestrator.train.checkpoints.manager import Saving
from orchestrator.train.control_channel import Record, WorkerCommand
from orchestrator.train.parallel.base import Collective, current_collective
from orchestrator.train.parallel.data_parallel import share_model
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.failure_kind import BadDataError, LeftError, NotANumberError
from orchestrator.train.resources import present_decoded_share
from orchestrator.train.resume import Beginning, check_agreement, find_beginning
from orchestrator.train.step import Laps, StepOutcome, Stepper
from workloads.contract import EvaluationOptions, KeyedRandom, Workload


@dataclass(frozen=True)
class Assignment:
    """What the driver tells every worker.

    Args:
        plan: the plan.
        mlflow_run_id: where the run is tracked.
        channel: the line to the driver.
        opening: the beginning of the stream, for the first workers, if they begin where the driver expects.
    """

    plan: Plan
    mlflow_run_id: str
    channel: Any
    prefetched: PrefetchedSegment | None = None


def train(config: dict[str, Assignment]) -> None:
    """Train until the last step or until asked to stop; runs in every worker process.

    Args:
        config: the driver's assignment under the key `assignment`, since Ray Train hands over a dictionary.
    """
    device = ray.train.torch.get_device()
    _Training(config["assignment"], current_collective(device), device).run()


class _Training:
    """One attempt at training on one worker."""

    def __init__(self, assignment: Assignment, collective: Collective, device: torch.device) -> None:
        self._plan = assignment.plan
        self._recipe = assignment.plan.recipe
        self._rank = collective.rank
        self._channel_client = ControlChannelClient(assignment.channel, collective.rank)
        beginning = find_beginning(self._plan, self._channel_client.log)
        check_agreement(beginning.first_step, collective)
        self._first_step = beginning.first_step
        self._feed = self._open_feed(assignment, collective)
        self._workload, self._model = self._build(device, pretrained=beginning.pretrained)
        self._parallel = share_model(self._recipe, self._workload, self._model, collective, device)
        self._stepper = Stepper(
            self._recipe, self._workload, self._parallel, collective, self._plan.steps, self._plan.data.total, device
        )
        self._restore(beginning)
        self._saving = Saving(self._plan, assignment.mlflow_run_id, collective, self._channel_client.log)
        self._seen, self._bad_samples, self._bad_steps_in_a_row = 0, 0, 0

    def run(self) -> None:
        """Run the remaining steps."""
        try:
            self._run_steps()
        finally:
            self._close_feed()

    def _run_steps(self) -> None:
        next_step = self._first_step
        for step in range(self._first_step, self._plan.steps):
            command = self._run_step(step)
            next_step = step + 1
            if command is WorkerCommand.SAVE_AND_EXIT:
                self._leave(step)
            if command is WorkerCommand.STOP:
                break
        self._saving.close()
        if next_step >= self._plan.steps:
            self._export()
        self._channel_client.close()

    def _open_feed(self, assignment: Assignment, collective: Collective) -> StreamLoader:
        number = self._channel_client.begin(self._first_step, collective.size) if self._rank == 0 else 0
        first_workers = _broadcast(number) == 1
        return StreamLoader(
            self._plan.read_plan(0.0),
            self._plan.partition(self._first_step, collective.size),
            self._rank,
            self._plan.decode_threads,
            self._recipe.stream.prefetch,
            _broadcast,
            assignment.prefetched if first_workers else None,
            partial(present_decoded_share, self._plan, collective.size),
        )

    def _build(self, device: torch.device, pretrained: bool) -> tuple[Workload, nn.Module]:
        workload = self._plan.resolved.entry.create(self._plan.resolved.workload)
        model = workload.build(device, KeyedRandom((self._recipe.seed, "build")), pretrained=pretrained)
        if self._recipe.precision == "float64":
            model.double()
        return workload, model

    def _restore(self, beginning: Beginning) -> None:
        beginning.restore(self._model, self._stepper.optimizer, self._parallel)

    def _run_step(self, step: int) -> WorkerCommand:
        """Run a step and all that comes with it; return what is wanted of the workers now."""
        laps = Laps()
        micro_batches = self._feed.step(step)
        laps.end("data_wait")
        self._saving.samples(step, micro_batches)
        outcome = self._stepper.run(step, micro_batches, self._channel_client.command)
        laps.end("step")
        metrics = dict(outcome.metrics) | self._plan.epochs_after(step) | self._mend(step, outcome)
        if self._due(step, self._recipe.evaluation.every_steps):
            metrics |= self._evaluate()
            laps.end("evaluation")
        record = _record(step, metrics | self._times(), laps, outcome)
        self._saving.figures(record.line())
        if outcome.command.saves or self._due(step, self._recipe.checkpoint.every_steps):
            self._save(step + 1, outcome, metrics)
            laps.end("checkpoint")
            record = replace(record, seconds=_seconds(laps, outcome), time_ms=now_ms())
            self._saving.figures(record.line())
        self._channel_client.publish(record, micro_batches)
        self._count(outcome)
        return outcome.command

    def _mend(self, step: int, outcome: StepOutcome) -> dict[str, float]:
        """Do what the recipe wants when a step's loss or gradient is no number; return figures about it.

        Raises:
            NotANumberError: the run shall end.
        """
        if outcome.finite:
            self._bad_steps_in_a_row = 0
            return {}
        self._bad_steps_in_a_row += 1
        match decide_bad_step(self._recipe.recovery, self._bad_steps_in_a_row):
            case BadStep.STOP:
                raise _not_a_number(step, outcome.metrics, self._bad_steps_in_a_row)
            case BadStep.SKIP:
                self._channel_client.log(f"step {step}: loss or gradient is no number; the step is left out")
                return {"skipped_steps_in_a_row": float(self._bad_steps_in_a_row)}
            case BadStep.ROLL_BACK:
                return self._roll_back(step)

    def _roll_back(self, step: int) -> dict[str, float]:
        """Take the weights of the newest checkpoint, and leave out what was trained on since then."""
        self._saving.settle()
        newest = find_beginning(self._plan, self._channel_client.log)
        if newest.checkpoint is not None:
            self._restore(newest)
        lost = step + 1 - newest.first_step if newest.checkpoint is not None else 1
        self._channel_client.log(
            f"step {step}: loss or gradient is no number; back to the weights before step {step + 1 - lost}"
        )
        return {"rolled_back_steps": float(lost)}

    def _due(self, step: int, every: int | None) -> bool:
        return every is not None and ((step + 1) % every == 0 or step + 1 == self._plan.steps)

    def _count(self, outcome: StepOutcome) -> None:
        self._seen += outcome.samples + outcome.skipped
        self._bad_samples += outcome.skipped
        allowed = self._recipe.stream.max_bad_share * max(self._seen, 20 * self._recipe.batch.samples)
        if self._bad_samples > max(1.0, allowed):
            raise BadDataError(
                f"{self._bad_samples} of {self._seen} samples are bad, more than stream.max_bad_share "
                f"({self._recipe.stream.max_bad_share:g}) allows. "
                f"{self._plan.run.quarantine.uri} lists them with their reasons."
            )

    def _evaluate(self) -> dict[str, float]:
        if self._plan.held_out is None or self._plan.held_out_index is None:
            return {}
        with self._parallel.whole():
            if self._rank != 0:
                return {}
            samples = evenly_spaced_samples(
                self._plan.held_out, self._plan.held_out_index, self._recipe.evaluation.samples
            )
            options = EvaluationOptions(batch_size=self._recipe.evaluation.batch_size)
            found = self._workload.evaluate(list(samples), options)
        return {f"held_out/{name}": value for name, value in found.metrics.items()}

    def _times(self) -> dict[str, float]:
        """Return for how long this worker has waited for what, in all, and how long the last checkpoint took."""
        read, decoded = self._feed.waits.reading_s, self._feed.waits.decoding_s
        waits = {"stream/waited_for_reading_s": read, "stream/waited_for_decoding_s": decoded}
        return waits | self._saving.last_write()

    def _save(self, next_step: int, outcome: StepOutcome, metrics: Mapping[str, float]) -> None:
        self._saving.checkpoint(
            next_step, outcome.fingerprints, metrics, self._model, self._stepper.optimizer, self._parallel
        )

    def _leave(self, step: int) -> NoReturn:
        """End this attempt once the checkpoint is there, for all workers at once."""
        self._channel_client.close()
        self._saving.settle()
        self._close_feed()
        self._channel_client.leave()
        raise LeftError(f"the workers saved step {step + 1} and made room, as they were asked to")

    def _close_feed(self) -> None:
        """End what is being read while these workers are still there: later nobody takes back its wish for machines."""
        if self._rank == 0:
            self._feed.close()

    def _export(self) -> None:
        state = self._parallel.gathered(self._model.state_dict())
        if self._rank != 0:
            return
        workload, model = self._build(torch.device("cpu"), pretrained=False)
        model.load_state_dict(state)
        with TemporaryDirectory() as folder:
            workload.export(Path(folder))
            for file in sorted(Path(folder).iterdir()):
                (self._plan.run.model / file.name).write(file.read_bytes())


def _record(step: int, metrics: dict[str, float], laps: Laps, outcome: StepOutcome) -> Record:
    return Record(step, metrics, _seconds(laps, outcome), outcome.samples, time_ms=now_ms())


def _seconds(laps: Laps, outcome: StepOutcome) -> dict[str, float]:
    return {part: seconds for part, seconds in laps.seconds.items() if part != "step"} | dict(outcome.seconds)


def _not_a_number(step: int, metrics: Mapping[str, float], in_a_row: int) -> NotANumberError:
    figures = ", ".join(f"{name} {metrics[name]:g}" for name in ("loss", "gradient_norm") if name in metrics)
    row = f", {in_a_row} steps in a row" if in_a_row > 1 else ""
    return NotANumberError(
        f"step {step}: {figures}{row}. Lower optimizer.learning_rate, set optimizer.clip_norm or another precision, or "
        "let such steps be left out with recovery.not_a_number=skip (or roll_back)."
    )


def _broadcast(value: Any) -> Any:
    return ray.train.collective.broadcast_from_rank_zero(value)


# A worker's end of the channel.


class ControlChannelClient:
    """Worker 0 reports every step and hears what is wanted; the others report what they skipped and messages alone.

    Args:
        channel: the actor.
        rank: this worker's number.
    """

    def __init__(self, channel: Any, rank: int) -> None:
        self._channel = channel
        self._rank = rank
        self._pending: ray.ObjectRef[WorkerCommand] | None = None
        self._said: ray.ObjectRef[None] | None = None
        self.command = WorkerCommand.CONTINUE

    def begin(self, first_step: int, workers: int) -> int:
        """Say that this worker, which must be worker 0, begins; return the number of the attempt."""
        return int(ray.get(self._channel.begin.remote(first_step, workers)))

    def log(self, text: str) -> None:
        """Send a message for people without waiting; what several workers say alike reaches them once."""
        self._said = self._channel.log.remote(text)

    def publish(self, record: Record, batches: Iterable[MicroBatch]) -> None:
        """Send a record without waiting; the answer is read at the next step."""
        skipped: tuple[SkippedSample, ...] = tuple(skip for batch in batches for skip in batch.skipped)
        if self._rank != 0:
            if skipped:
                self._channel.publish.remote(Record(record.step, skipped=skipped))
            return
        self._arrive()
        self._pending = self._channel.publish.remote(replace(record, skipped=skipped))

    def leave(self) -> None:
        """Say that the workers make room."""
        if self._rank == 0:
            ray.get(self._channel.leave.remote())

    def close(self) -> None:
        """Wait until all has arrived."""
        self._arrive()
        if self._said is not None:
            ray.get(self._said)

    def _arrive(self) -> None:
        if self._pending is not None:
            self.command = WorkerCommand(ray.get(self._pending))
            self._pending = None


# What to do about a step whose loss or gradient is no number: a pure decision, the same on every worker.


class BadStep(Enum):
    """What is done about it; the step itself has changed nothing."""

    SKIP = "skip"
    ROLL_BACK = "roll back"
    STOP = "stop"


def decide_bad_step(recovery: RecoverySection, in_a_row: int) -> BadStep:
    """Return what to do.

    Args:
        recovery: the recipe's wish, and how many bad steps in a row it bears.
        in_a_row: bad steps since the last good one, this one included.
    """
    if recovery.not_a_number == "stop" or in_a_row > recovery.bad_steps:
        return BadStep.STOP
    return BadStep.SKIP if recovery.not_a_number == "skip" else BadStep.ROLL_BACK
