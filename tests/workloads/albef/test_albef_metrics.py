"""What a run is said to report is what it reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from workloads.albef.entry import ENTRY
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock
from workloads.downstream.retrieval_metrics import contrastive_metrics

Small = Callable[..., AlbefWorkload]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"contrastive": {"enabled": False, "queue_size": 12}, "matching": {"hard_negatives": False}},
        {"masking": {"enabled": False}},
        {"matching": {"enabled": False}},
        {"adversarial": {"steps": 2}},
        {"adversarial": {"steps": 2, "active": (0.5, 1.0)}},
        {"adversarial": {"steps": 2, "active": (0.0, 0.5)}},
    ],
)
def test_steps_report_what_the_entry_names(
    small: Small, micro_batch: dict[str, Tensor], clock: Callable[[int], Clock], values: dict[str, Any]
) -> None:
    workload = small(**values)
    declared = ENTRY.metrics(workload.config)
    reported = []
    for step in (1, 8):
        backward = lambda loss, retain_graph=False, final=False: loss.backward(retain_graph=retain_graph)  # noqa: E731
        reported.append(set(workload.micro_step(micro_batch, clock(step), backward).metrics))
    assert {metric.name for metric in declared.steps} == reported[0] & reported[1]
    assert {metric.name for metric in declared.some_steps} == reported[0] ^ reported[1]
    assert declared.evaluation == contrastive_metrics()
