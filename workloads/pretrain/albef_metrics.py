"""The names of the figures that ALBEF's training reports, known without torch."""

from __future__ import annotations

from workloads.contract import MetricNames
from workloads.downstream.figure_names import retrieval_names
from workloads.pretrain.albef_config import AlbefConfig

ADVERSARIAL = ("loss_adversarial", "adversarial_divergence")


def metric_names(config: AlbefConfig) -> MetricNames:
    """Return what a run reports: in every step, in the part of it with adversarial steps, and of an evaluation."""
    steps = step_metric_names(config, config.adversarial.active[0])
    partly = ADVERSARIAL if config.adversarial.steps and config.adversarial.active != (0.0, 1.0) else ()
    return MetricNames(tuple(name for name in steps if name not in partly), partly, retrieval_names())


def step_metric_names(config: AlbefConfig, progress: float) -> tuple[str, ...]:
    """Return the names of the metrics that every micro-batch reports at this share of the training."""
    trained = {
        ("loss",): True,
        ("loss_itc",): config.contrastive.enabled,
        ("loss_itm", "itm_skipped"): config.matching.enabled,
        ("loss_mlm",): config.masking.enabled,
        ("alpha", "temperature"): True,
        ADVERSARIAL: config.adversarial.is_active(progress),
    }
    return tuple(name for names, reported in trained.items() if reported for name in names)
