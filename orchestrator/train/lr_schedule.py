"""The learning rate as a function of how far a run has come."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.config.recipe import Recipe, ScheduleSection


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
