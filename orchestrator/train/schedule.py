"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from orchestrator.spec.recipe import ScheduleSection


def learning_rate(schedule: ScheduleSection, peak: float, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    Linear from `warmup_from` to `peak` over the warm-up, then a half cosine to `final` at the end of the run
    (Loshchilov and Hutter 2017, equation 5, without restarts), or constant.
    """
    if step < schedule.warmup_steps:
        return schedule.warmup_from + (peak - schedule.warmup_from) * step / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    done = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    return schedule.final + 0.5 * (peak - schedule.final) * (1 + math.cos(math.pi * done))
