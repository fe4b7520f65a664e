"""One optimiser step over a worker's micro-batches, the reduction of its metrics over all workers, the learning rate.

The step's gradient is the mean over its micro-batches, each weighted by its number of usable samples, so it does not
depend on the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from inspect import unwrap
from math import isfinite
from time import perf_counter

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from orchestrator.config.recipe import OptimizerSection, Precision, Recipe, ScheduleSection
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.train.control_channel import WorkerCommand
from orchestrator.train.parallel.base import Collective, Parallel
from workloads.contract import Clock, KeyedRandom, MicroResult, ParameterGroup, Workload


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Result of a step; the same on every worker, except the seconds.

    Args:
        metrics: means over the step's samples, with learning rate and gradient norm.
        samples: usable samples of the step.
        skipped: bad samples of the step.
        fingerprints: of the keys of each of the step's micro-batches.
        command: worker 0's command after this step.
        finite: whether loss and gradient were finite; if not, the step has changed nothing.
        seconds: time this worker spent per part.
    """

    metrics: Mapping[str, float]
    samples: int
    skipped: int
    fingerprints: tuple[int, ...]
    command: WorkerCommand
    finite: bool
    seconds: Mapping[str, float]


class Stepper:
    """Runs optimiser steps.

    Args:
        recipe: the recipe.
        workload: built already.
        parallel: how the workers share its model.
        collective: the other workers.
        steps: steps in the run.
        epoch_samples: samples in one epoch.
        device: where the model is.
    """

    def __init__(
        self,
        recipe: Recipe,
        workload: Workload,
        parallel: Parallel,
        collective: Collective,
        steps: int,
        epoch_samples: int,
        device: torch.device,
    ) -> None:
        self._recipe = recipe
        self._workload = workload
        self._parallel = parallel
        self._collective = collective
        self._steps = steps
        self._epoch_samples = epoch_samples
        self._device = device
        self.optimizer = build_optimizer(recipe.optimizer, workload.parameter_groups())

    def run(
        self, step: int, micro_batches: Sequence[MicroBatch], command: WorkerCommand = WorkerCommand.CONTINUE
    ) -> StepOutcome:
        """Run one step; all workers call it together.

        Args:
            step: the step's number.
            micro_batches: this worker's share.
            command: to be carried out after the step; only worker 0's counts.
        """
        clock, timer = self._clock(step), StepTimer()
        self._workload.begin_step(clock)
        timer.end("step_hooks")
        self._parallel.begin_step()
        timer.end("gradient_sync")
        usable = [batch for batch in micro_batches if batch.samples]
        results = [(batch, self._micro_step(batch, clock, batch is usable[-1])) for batch in usable]
        timer.end("forward_backward")
        self._parallel.finish_backward()
        template = self._workload.empty_result(clock)
        per_step = self._recipe.batch.micro_batches
        totals = reduce_step_metrics(results, template, micro_batches, per_step, command, self._collective)
        self._parallel.average_gradients(max(totals.samples, 1) / self._recipe.batch.micro_batch_size)
        norm = self._parallel.gradient_norm()
        timer.end("gradient_sync")
        finite = all(isfinite(value) for value in (float(norm), *totals.metrics.values()))
        metrics = {**totals.metrics, **self._update(step, norm, finite)} if totals.samples else {}
        timer.end("optimizer")
        if totals.samples and finite:
            self._workload.end_step(clock, gather_shared_rows(results, template, totals.counts, self._collective))
        timer.end("step_hooks")
        return StepOutcome(
            metrics, totals.samples, totals.skipped, totals.fingerprints, totals.command, finite, timer.seconds
        )

    def _clock(self, step: int) -> Clock:
        draw = KeyedRandom((self._recipe.seed, "step", step))
        return Clock(step, self._steps, step * self._recipe.batch.samples, self._epoch_samples, draw)

    def _micro_step(self, micro_batch: MicroBatch, clock: Clock, last: bool) -> MicroResult:
        clock = replace(clock, draw=clock.draw.child(micro_batch.number % self._recipe.batch.micro_batches))
        torch.manual_seed(clock.draw.child("dropout").seed())
        batch = {name: torch.from_numpy(array).to(self._device) for name, array in micro_batch.features.items()}
        weight = micro_batch.samples / self._recipe.batch.micro_batch_size

        def backward(loss: Tensor, retain_graph: bool = False, final: bool = False) -> None:
            self._parallel.backward(loss * weight, retain_graph, last=last and final)

        with precision_context(self._recipe.precision, self._device):
            return self._workload.micro_step(batch, clock, backward)

    def _update(self, step: int, norm: Tensor, finite: bool) -> dict[str, float]:
        options = self._recipe.optimizer
        progress = Progress.of(self._recipe, step, self._steps, self._epoch_samples)
        rate = learning_rate(self._recipe.schedule, options.learning_rate, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["learning_rate_scale"]
        if finite and options.clip_norm is not None:
            self._parallel.clip_gradients(norm, options.clip_norm)
        if finite:
            self.optimizer.step()
        return {"learning_rate": rate, "gradient_norm": float(norm)}


def precision_context(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context that micro-batches run in: autocast to bfloat16, or none."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


class EagerAdamW(AdamW):
    """AdamW (Loshchilov and Hutter 2019) that does not load torch's compiler.

    torch's own methods import `torch._dynamo` when they are first called, so as not to be compiled: two seconds of CPU
    on every worker. Nothing compiles them here.
    """

    step = torch.no_grad()(unwrap(AdamW.step))
    add_param_group = unwrap(Optimizer.add_param_group)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    zero_grad = unwrap(Optimizer.zero_grad)


def build_optimizer(options: OptimizerSection, groups: Sequence[ParameterGroup]) -> AdamW:
    """Return AdamW over the workload's parameter groups."""
    return EagerAdamW(
        [
            {
                "params": list(group.parameters),
                "weight_decay": options.weight_decay if group.weight_decay else 0.0,
                "learning_rate_scale": group.learning_rate_scale,
            }
            for group in groups
            if group.parameters
        ],
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.epsilon,
        fused=True,
    )


class StepTimer:
    """Measures the time of the parts of a step; each part begins where the one before ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def end(self, part: str) -> None:
        """Add the time since the last call to a part."""
        now = perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


Results = Sequence[tuple[MicroBatch, MicroResult]]


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sums over all workers of a step.

    Args:
        counts: usable samples of each of the step's micro-batches.
        fingerprints: of the keys that each of the step's micro-batches was made of.
        skipped: bad samples.
        command: worker 0's command.
        metrics: means over samples; empty on a worker that has never seen a sample.
    """

    counts: tuple[int, ...]
    fingerprints: tuple[int, ...]
    skipped: int
    command: WorkerCommand
    metrics: Mapping[str, float]

    @property
    def samples(self) -> int:
        """Usable samples of the step."""
        return sum(self.counts)


def reduce_step_metrics(
    results: Results,
    template: MicroResult,
    share: Sequence[MicroBatch],
    micro_batches: int,
    command: WorkerCommand,
    collective: Collective,
) -> StepTotals:
    """Return the totals of a step; all workers call it together. One all-reduce.

    Args:
        results: this worker's micro-batches with usable samples, and their results.
        template: names the metrics, as every result of this step does.
        share: all of this worker's micro-batches.
        micro_batches: micro-batches per step.
        command: to be carried out after the step; only worker 0's counts.
        collective: the other workers.
    """
    names = sorted(template.metrics)
    counts, fingerprints = torch.zeros(2, micro_batches, dtype=torch.float64)
    sums = torch.zeros(len(names), dtype=torch.float64)
    for batch in share:
        counts[batch.number % micro_batches] = batch.samples
        fingerprints[batch.number % micro_batches] = batch.fingerprint
    for batch, result in results:
        sums += batch.samples * torch.tensor([float(result.metrics[name]) for name in names], dtype=torch.float64)
    skipped = sum(len(batch.skipped) for batch in share)
    message = torch.cat(
        [counts, fingerprints, torch.tensor([skipped, command * (collective.rank == 0)], dtype=torch.float64), sums]
    )
    collective.all_reduce(message)
    counts, fingerprints, totals, sums = message.split([micro_batches, micro_batches, 2, len(names)])
    samples = float(counts.sum())
    return StepTotals(
        counts=tuple(int(count) for count in counts.tolist()),
        fingerprints=tuple(int(fingerprint) for fingerprint in fingerprints.tolist()),
        skipped=int(totals[0]),
        command=WorkerCommand(int(totals[1])),
        metrics=dict(zip(names, (sums / max(samples, 1)).tolist(), strict=True)),
    )


def gather_shared_rows(
    results: Results, template: MicroResult, counts: Sequence[int], collective: Collective
) -> dict[str, Tensor]:
    """Return the rows that the step's micro-batches share, of all workers, in the order of the micro-batches.

    Each worker puts its rows at their position in a tensor of zeros and the tensors are summed, which is exact.

    Args:
        results: this worker's micro-batches and their results.
        template: gives the names and shapes of the shared rows.
        counts: rows of each of the step's micro-batches.
        collective: the other workers.

    Returns:
        The shared tensors by name, [rows of the step, ...].
    """
    shared: dict[str, Tensor] = {}
    for name, example in sorted(template.shared.items()):
        rows = example.new_zeros((sum(counts), *example.shape[1:]))
        for batch, result in results:
            start = sum(counts[: batch.number % len(counts)])
            rows[start : start + batch.samples] = result.shared[name]
        collective.all_reduce(rows)
        shared[name] = rows
    return shared


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come.

    Args:
        step: optimiser steps done.
        steps: steps of the whole run.
        whole_epochs: passes over the samples that are complete.
        epochs: passes of the whole run, with the fraction of the last one.
    """

    step: int
    steps: int
    whole_epochs: int
    epochs: float

    @classmethod
    def of(cls, recipe: Recipe, step: int, steps: int, epoch_samples: int) -> Progress:
        """Return the progress before a step of a recipe's run.

        Args:
            recipe: the recipe.
            step: the step.
            steps: steps of the whole run.
            epoch_samples: samples in one epoch.
        """
        samples = recipe.batch.samples
        epochs = recipe.length.epochs or steps * samples / epoch_samples
        return cls(step, steps, step * samples // epoch_samples, epochs)


def learning_rate(schedule: ScheduleSection, peak: float, at: Progress) -> float:
    """Return the learning rate of the step that comes next.

    By step: a linear warm-up from `warmup_from` to `peak`, then a decay to `final` over the remaining steps: half a
    cosine (Loshchilov and Hutter 2017, equation 5, without restarts), a straight line (the released VILLA
    configurations, with `final` 0), or none.

    By epoch, as the official ALBEF code does it: the warm-up and then the peak in epoch 0; from epoch e = 1 on the
    decay over the E epochs of the run, cosine: final + 0.5 * (peak - final) * (1 + cos(pi * e / E)).

    The warm-up rises in plateaus of `warmup_plateau` steps (official ALBEF: 100), each at the rate of its first step.
    """
    if schedule.by == "epoch":
        if at.whole_epochs:
            return _decayed(schedule, peak, at.whole_epochs / at.epochs)
        return _warmed_up(schedule, peak, at.step) if at.step < schedule.warmup_steps else peak
    if at.step < schedule.warmup_steps:
        return _warmed_up(schedule, peak, at.step)
    return _decayed(schedule, peak, (at.step - schedule.warmup_steps) / max(1, at.steps - schedule.warmup_steps))


def _warmed_up(schedule: ScheduleSection, peak: float, step: int) -> float:
    first = step - step % schedule.warmup_plateau
    return schedule.warmup_from + (peak - schedule.warmup_from) * first / schedule.warmup_steps


def _decayed(schedule: ScheduleSection, peak: float, done: float) -> float:
    if schedule.kind == "constant":
        return peak
    left = 1 - done if schedule.kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return schedule.final + (peak - schedule.final) * left
