"""The training loop that Ray Train runs on every worker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from torch import nn

from orchestrator.spec.errors import FuserayError
from orchestrator.stream.data_set.held_out import evenly_spaced
from orchestrator.stream.feed import Feed, Opening
from orchestrator.stream.ledger import Ledger
from orchestrator.stream.micro_batch import MicroBatch, Skipped
from orchestrator.stream.stream_state import StreamState
from orchestrator.track.metric_log import MetricLog, now_ms
from orchestrator.train.channel import Record
from orchestrator.train.checkpoint import RunState, optimizer_tensors, prune, save_checkpoint
from orchestrator.train.collective import Collective, current_collective
from orchestrator.train.initial import find_beginning
from orchestrator.train.parallel.choice import share_model
from orchestrator.train.plan import Plan
from orchestrator.train.step import Laps, StepOutcome, Stepper
from workloads.contract import EvaluationOptions, KeyedRandom, Workload


class BadDataError(FuserayError):
    """Too large a share of the samples is bad."""


@dataclass(frozen=True)
class Assignment:
    """What the driver tells every worker.

    Args:
        plan: the plan.
        mlflow_run_id: where the run is tracked.
        channel: the line to the driver.
        decoded_share: share of the micro-batches that reach the workers decoded.
        opening: the beginning of the stream, for workers that begin where the driver expects.
    """

    plan: Plan
    mlflow_run_id: str
    channel: Any
    decoded_share: float
    opening: Opening | None = None


def train(config: dict[str, Assignment]) -> None:
    """Train until the last step or until asked to stop; runs in every worker process.

    Args:
        config: the driver's assignment under the key `assignment`, since Ray Train hands over a dictionary.
    """
    assignment = config["assignment"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    _Training(assignment, current_collective(device), context.get_world_rank(), context.get_world_size(), device).run()


class _Training:
    """One attempt at training on one worker."""

    def __init__(
        self, assignment: Assignment, collective: Collective, rank: int, workers: int, device: torch.device
    ) -> None:
        self._plan = assignment.plan
        self._recipe = assignment.plan.recipe
        self._mlflow_run_id = assignment.mlflow_run_id
        self._line = _Line(assignment.channel, rank)
        self._rank = rank
        beginning = find_beginning(self._plan, self._line.note)
        self._first_step = beginning.first_step
        sharing = self._plan.sharing(self._first_step, workers)
        delivery = self._plan.delivery(assignment.decoded_share)
        threads, ahead = self._plan.decode_threads, self._recipe.stream.prefetch
        self._feed = Feed(delivery, sharing, rank, threads, ahead, _broadcast, assignment.opening)
        self._workload, self._model = self._build(device, pretrained=beginning.pretrained)
        self._parallel = share_model(self._recipe, self._workload, self._model, collective, device)
        self._stepper = Stepper(
            self._recipe, self._workload, self._parallel, collective, self._plan.steps, self._plan.data.total, device
        )
        beginning.restore(self._model, self._stepper.optimizer, self._parallel)
        self._collective = collective
        self._ledger = Ledger(self._plan.run.ledger, rank) if self._recipe.stream.audit else None
        self._metric_log = MetricLog(self._plan.run.metrics) if rank == 0 else None
        self._seen, self._bad = 0, 0

    def run(self) -> None:
        """Run the remaining steps."""
        next_step = self._first_step
        for step in range(self._first_step, self._plan.steps):
            laps = Laps()
            micro_batches = self._feed.step(step)
            laps.end("data_wait")
            if self._ledger is not None:
                self._ledger.add(step, micro_batches)
            outcome = self._stepper.run(step, micro_batches, stop=self._line.stop_requested)
            laps.end("step")
            metrics = dict(outcome.metrics) | self._plan.epochs_after(step)
            if self._due(step, self._recipe.evaluation.every_steps):
                metrics |= self._evaluate()
                laps.end("evaluation")
            record = Record(step, metrics | self._waits(), _merged(laps, outcome), outcome.samples, time_ms=now_ms())
            if outcome.stop or self._due(step, self._recipe.checkpoint.every_steps):
                self._enter(record)
                self._save(step + 1, outcome.fingerprints)
                laps.end("checkpoint")
                record = replace(record, seconds=_merged(laps, outcome), time_ms=now_ms())
            self._enter(record)
            self._line.publish(record, micro_batches)
            self._count(outcome)
            next_step = step + 1
            if outcome.stop:
                break
        if self._metric_log is not None:
            self._metric_log.flush()
        if next_step >= self._plan.steps:
            self._export()
        self._line.close()

    def _build(self, device: torch.device, pretrained: bool) -> tuple[Workload, nn.Module]:
        workload = self._plan.resolved.entry.create(self._plan.resolved.workload)
        model = workload.build(device, KeyedRandom((self._recipe.seed, "build")), pretrained=pretrained)
        if self._recipe.precision == "float64":
            model.double()
        return workload, model

    def _enter(self, record: Record) -> None:
        if self._metric_log is not None:
            self._metric_log.add(record.line())

    def _due(self, step: int, every: int | None) -> bool:
        return every is not None and ((step + 1) % every == 0 or step + 1 == self._plan.steps)

    def _count(self, outcome: StepOutcome) -> None:
        self._seen += outcome.samples + outcome.skipped
        self._bad += outcome.skipped
        allowed = self._recipe.stream.max_bad_share * max(self._seen, 20 * self._recipe.batch.samples)
        if self._bad > max(1.0, allowed):
            raise BadDataError(
                f"{self._bad} of {self._seen} samples are bad, more than stream.max_bad_share "
                f"({self._recipe.stream.max_bad_share:g}) allows. "
                f"{self._plan.run.quarantine.uri} lists them with their reasons."
            )

    def _evaluate(self) -> dict[str, float]:
        if self._plan.held_out is None or self._plan.held_out_index is None:
            return {}
        with self._parallel.whole():
            if self._rank != 0:
                return {}
            samples = evenly_spaced(self._plan.held_out, self._plan.held_out_index, self._recipe.evaluation.samples)
            options = EvaluationOptions(batch_size=self._recipe.evaluation.batch_size)
            found = self._workload.evaluate(list(samples), options)
        return {f"held_out/{name}": value for name, value in found.metrics.items()}

    def _waits(self) -> dict[str, float]:
        """Return for how long this worker has waited for what, in all."""
        waits = self._feed.waits
        return {"stream/waited_for_reading_s": waits.reading_s, "stream/waited_for_decoding_s": waits.decoding_s}

    def _save(self, next_step: int, fingerprints: tuple[int, ...]) -> None:
        if self._ledger is not None:
            self._ledger.flush()
            self._collective.sum(torch.zeros(1))
        model = self._parallel.gathered(self._model.state_dict())
        moments = self._parallel.gathered(optimizer_tensors(self._stepper.optimizer, self._model))
        if self._rank != 0:
            return
        if self._metric_log is not None:
            self._metric_log.flush()
        resolved = self._plan.resolved
        state = RunState(
            next_step=next_step,
            seed=self._recipe.seed,
            recipe_digest=resolved.digest(),
            index_digest=self._plan.data.digest,
            mlflow_run_id=self._mlflow_run_id,
            workload=self._recipe.workload,
            config=resolved.workload.model_dump(mode="json"),
            epochs=next_step * self._recipe.batch.samples / self._plan.data.total,
            stream=StreamState(self._plan.stream_settings(), fingerprints).plain(),
        )
        save_checkpoint(self._plan.run.checkpoints, state, model, moments)
        prune(self._plan.run, self._recipe.checkpoint.keep)

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


class _Line:
    """A worker's end of the channel. Worker 0 reports every step; the others only what they skipped."""

    def __init__(self, channel: Any, rank: int) -> None:
        self._channel = channel
        self._rank = rank
        self._pending: ray.ObjectRef[bool] | None = None
        self._notes: list[str] = []
        self.stop_requested = False

    def note(self, text: str) -> None:
        """Send a message for people along with the next record."""
        self._notes.append(text)

    def publish(self, record: Record, batches: Iterable[MicroBatch]) -> None:
        """Send a record without waiting; the answer is read at the next step."""
        skipped: tuple[Skipped, ...] = tuple(skip for batch in batches for skip in batch.skipped)
        if self._rank != 0:
            if skipped:
                self._channel.publish.remote(Record(record.step, skipped=skipped))
            return
        self.close()
        self._pending = self._channel.publish.remote(replace(record, skipped=skipped, notes=tuple(self._notes)))
        self._notes = []

    def close(self) -> None:
        """Wait until the last record has arrived."""
        if self._pending is not None:
            self.stop_requested = bool(ray.get(self._pending))
            self._pending = None


def _broadcast(parts: list[Any] | None) -> list[Any]:
    return ray.train.collective.broadcast_from_rank_zero(parts)  # type: ignore[no-any-return]


def _merged(laps: Laps, outcome: StepOutcome) -> dict[str, float]:
    return {part: seconds for part, seconds in laps.seconds.items() if part != "step"} | dict(outcome.seconds)
