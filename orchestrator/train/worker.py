"""The training loop that Ray Train runs on every worker, and the worker's end of the control channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
from orchestrator.storage.timing import now_ms
from orchestrator.stream.loader import StreamLoader
from orchestrator.stream.micro_batch import MicroBatch, SkippedSample
from orchestrator.train.checkpoints.manager import CheckpointManager
from orchestrator.train.control_channel import Assignment, StepRecord, WorkerCommand
from orchestrator.train.evaluation.by_workers import WorkersEvaluation
from orchestrator.train.parallel.base import Collective, current_collective
from orchestrator.train.parallel.parallelize import parallelize_model
from orchestrator.train.recovery.diagnosis import BadDataError, NotANumberError, WorkersDrainedError
from orchestrator.train.resources import present_decoded_share
from orchestrator.train.resume import InitialState, check_agreement, find_initial_state
from orchestrator.train.step import StepOutcome, Stepper, StepTimer
from workloads.contract import InitialWeights, KeyedRandom, PretrainedWorkload, Workload


def train(assignment: Assignment) -> None:
    """Train until the last step or a command to stop; runs in every worker process."""
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _Training(assignment, current_collective(device), device).run()


class _Training:
    """One attempt at training on one worker."""

    def __init__(self, assignment: Assignment, collective: Collective, device: torch.device) -> None:
        self._plan = assignment.plan
        self._recipe = assignment.plan.recipe
        self._rank = collective.rank
        self._channel_client = ControlChannelClient(assignment.channel, collective.rank)
        initial = find_initial_state(self._plan, self._channel_client.log)
        check_agreement(initial.first_step, collective)
        self._first_step = initial.first_step
        self._feed = self._open_feed(assignment, collective)
        self._workload, self._model = self._build(device, pretrained=initial.pretrained)
        self._parallel = parallelize_model(self._recipe, self._workload, self._model, collective, device)
        self._stepper = Stepper(
            self._recipe, self._workload, self._parallel, collective, self._plan.steps, self._plan.data.total, device
        )
        self._restore(initial)
        self._channel_client.report_weights(weights_of(self._workload, initial))
        self._checkpoints = CheckpointManager(
            self._plan, assignment.mlflow_run_id, collective, self._channel_client.log
        )
        self._evaluation = WorkersEvaluation.of(self._plan, collective, _broadcast, self._channel_client.log)
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
                self._save_and_exit(step)
            if command is WorkerCommand.STOP:
                break
        self._checkpoints.close()
        if next_step >= self._plan.steps:
            self._export()
        self._channel_client.close()

    def _open_feed(self, assignment: Assignment, collective: Collective) -> StreamLoader:
        attempt = self._channel_client.begin(self._first_step, collective.size) if self._rank == 0 else 0
        first_workers = _broadcast(attempt) == 1
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

    def _restore(self, initial: InitialState) -> None:
        initial.restore(self._model, self._stepper.optimizer, self._parallel)

    def _run_step(self, step: int) -> WorkerCommand:
        """Run a step with its evaluation, logging and checkpoint; return the command to the workers."""
        timer = StepTimer()
        micro_batches = self._feed.step(step)
        timer.end("data_wait")
        self._checkpoints.log_samples(step, micro_batches)
        outcome = self._stepper.run(step, micro_batches, self._channel_client.command)
        timer.end("step")
        metrics = dict(outcome.metrics) | self._plan.epochs_after(step) | self._handle_bad_step(step, outcome)
        measured = self._due(step, self._recipe.evaluation.every_steps)
        if measured and self._evaluation is not None:
            metrics |= self._evaluate(self._evaluation)
            timer.end("evaluation")
        record = _record(step, metrics | self._waits(), timer, outcome)
        self._checkpoints.log_metrics(record.line())
        measured_later = measured and self._plan.measures_beside
        if outcome.command.saves or measured_later or self._due(step, self._recipe.checkpoint.every_steps):
            self._save(step + 1, outcome, metrics, measured_later)
            timer.end("checkpoint")
            record = replace(record, seconds=_seconds(timer, outcome), time_ms=now_ms())
            self._checkpoints.log_metrics(record.line())
        self._channel_client.publish(record, micro_batches)
        self._count(outcome)
        return outcome.command

    def _handle_bad_step(self, step: int, outcome: StepOutcome) -> dict[str, float]:
        """Carry out the recipe's action when a step's loss or gradient is non-finite; return metrics about it.

        Raises:
            NotANumberError: the run is to stop.
        """
        if outcome.finite:
            self._bad_steps_in_a_row = 0
            return {}
        self._bad_steps_in_a_row += 1
        match decide_bad_step(self._recipe.recovery, self._bad_steps_in_a_row):
            case BadStepAction.STOP:
                raise _not_a_number_error(step, outcome.metrics, self._bad_steps_in_a_row)
            case BadStepAction.SKIP:
                self._channel_client.log(f"step {step}: loss or gradient is non-finite; the step is skipped")
                return {"skipped_steps_in_a_row": float(self._bad_steps_in_a_row)}
            case BadStepAction.ROLL_BACK:
                return self._roll_back(step)

    def _roll_back(self, step: int) -> dict[str, float]:
        """Restore the newest checkpoint and skip the samples that were trained on since then."""
        self._checkpoints.wait_until_committed()
        newest = find_initial_state(self._plan, self._channel_client.log)
        if newest.checkpoint is not None:
            self._restore(newest)
        lost = step + 1 - newest.first_step if newest.checkpoint is not None else 1
        self._channel_client.log(
            f"step {step}: loss or gradient is non-finite; back to the weights before step {step + 1 - lost}"
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

    def _evaluate(self, evaluation: WorkersEvaluation) -> dict[str, float]:
        """Return the metrics of the held-out samples, on worker 0; the others do their share.

        Raises:
            EvaluationError: the model could not be evaluated on them.
        """
        with self._parallel.unsharded():
            return evaluation.run(self._workload)

    def _waits(self) -> dict[str, float]:
        """Return how long this worker has waited for data in all, and how long the last checkpoint took."""
        read, decoded = self._feed.waits.reading_s, self._feed.waits.decoding_s
        waits = {"stream/waited_for_reading_s": read, "stream/waited_for_decoding_s": decoded}
        return waits | self._checkpoints.last_write_metrics()

    def _save(self, next_step: int, outcome: StepOutcome, metrics: Mapping[str, float], measured_later: bool) -> None:
        trained = self._model, self._stepper.optimizer, self._parallel
        self._checkpoints.save(next_step, outcome.fingerprints, metrics, *trained, measured_later)

    def _save_and_exit(self, step: int) -> NoReturn:
        """End this attempt on all workers once the checkpoint is committed."""
        self._channel_client.close()
        self._checkpoints.wait_until_committed()
        self._close_feed()
        self._channel_client.report_drained()
        raise WorkersDrainedError(f"the workers saved step {step + 1} and exit, as requested")

    def _close_feed(self) -> None:
        """Stop reading while these workers still run: afterwards nothing would cancel its request for resources."""
        if self._rank == 0:
            self._feed.close()

    def _export(self) -> None:
        state = self._parallel.gather(self._model.state_dict())
        if self._rank != 0:
            return
        workload, model = self._build(torch.device("cpu"), pretrained=False)
        model.load_state_dict(state)
        with TemporaryDirectory() as folder:
            workload.export(Path(folder))
            for file in sorted(Path(folder).iterdir()):
                (self._plan.run.model / file.name).write(file.read_bytes())


def _record(step: int, metrics: dict[str, float], timer: StepTimer, outcome: StepOutcome) -> StepRecord:
    return StepRecord(step, metrics, _seconds(timer, outcome), outcome.samples, time_ms=now_ms())


def _seconds(timer: StepTimer, outcome: StepOutcome) -> dict[str, float]:
    return {part: seconds for part, seconds in timer.seconds.items() if part != "step"} | dict(outcome.seconds)


def _not_a_number_error(step: int, metrics: Mapping[str, float], in_a_row: int) -> NotANumberError:
    values = ", ".join(f"{name} {metrics[name]:g}" for name in ("loss", "gradient_norm") if name in metrics)
    row = f", {in_a_row} steps in a row" if in_a_row > 1 else ""
    return NotANumberError(
        f"step {step}: {values}{row}. Lower optimizer.learning_rate, set optimizer.clip_norm or another precision, or "
        "have such steps skipped with recovery.not_a_number=skip (or roll_back)."
    )


def _broadcast(value: Any) -> Any:
    return ray.train.collective.broadcast_from_rank_zero(value)


class ControlChannelClient:
    """Worker 0 reports every step and receives commands; the others report only skipped samples and messages.

    Args:
        channel: an actor of class `Channel`.
        rank: this worker's rank.
    """

    def __init__(self, channel: Any, rank: int) -> None:
        self._channel = channel
        self._rank = rank
        self._pending: ray.ObjectRef[WorkerCommand] | None = None
        self._last_log: ray.ObjectRef[None] | None = None
        self.command = WorkerCommand.CONTINUE

    def begin(self, first_step: int, workers: int) -> int:
        """Report that this worker, which must be worker 0, begins; return the number of the attempt."""
        return int(ray.get(self._channel.begin.remote(first_step, workers)))

    def log(self, text: str) -> None:
        """Send a message for the user without waiting; the same message of several workers is shown once."""
        self._last_log = self._channel.log.remote(text)

    def report_weights(self, parts: Sequence[InitialWeights]) -> None:
        """Report what the model starts from, without waiting."""
        if self._rank == 0 and parts:
            self._last_log = self._channel.report_weights.remote(parts)

    def publish(self, record: StepRecord, batches: Iterable[MicroBatch]) -> None:
        """Send a record without waiting; the command that it returns is read at the next step."""
        skipped: tuple[SkippedSample, ...] = tuple(skip for batch in batches for skip in batch.skipped)
        if self._rank != 0:
            if skipped:
                self._channel.publish.remote(StepRecord(record.step, skipped=skipped))
            return
        self._receive_command()
        self._pending = self._channel.publish.remote(replace(record, skipped=skipped))

    def report_drained(self) -> None:
        """Report that the workers have saved and exit."""
        if self._rank == 0:
            ray.get(self._channel.report_drained.remote())

    def close(self) -> None:
        """Wait until the channel has received everything."""
        self._receive_command()
        if self._last_log is not None:
            ray.get(self._last_log)

    def _receive_command(self) -> None:
        if self._pending is not None:
            self.command = WorkerCommand(ray.get(self._pending))
            self._pending = None


def weights_of(workload: Workload, initial: InitialState) -> tuple[InitialWeights, ...]:
    """Return what the model of a new run starts from; nothing for one that continues at its own checkpoint."""
    if initial.pretrained:
        return tuple(workload.initial_weights) if isinstance(workload, PretrainedWorkload) else ()
    if initial.start is None or initial.checkpoint is None:
        return ()
    return (InitialWeights("start.checkpoint", initial.start.describe(), used=tuple(initial.checkpoint.model)),)


class BadStepAction(Enum):
    """What to do about a step whose loss or gradient is non-finite; the step itself has changed nothing."""

    SKIP = "skip"
    ROLL_BACK = "roll back"
    STOP = "stop"


def decide_bad_step(recovery: RecoverySection, in_a_row: int) -> BadStepAction:
    """Return what to do about a bad step. Pure, and the same on every worker.

    Args:
        recovery: the recipe's action, and how many bad steps in a row it allows.
        in_a_row: bad steps since the last good one, this one included.
    """
    if recovery.not_a_number == "stop" or in_a_row > recovery.bad_steps:
        return BadStepAction.STOP
    return BadStepAction.SKIP if recovery.not_a_number == "skip" else BadStepAction.ROLL_BACK
