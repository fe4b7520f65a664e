"""Where the time of a training step goes, by part of the model.

Forward calls are labelled; a backward operation counts for the part whose forward operation it belongs to (both carry
the same sequence number in the profile). What belongs to no part, such as adding up gradients, is `other`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from orchestrator.train.step import EagerAdamW
from workloads.albef import model, workload
from workloads.albef import step as albef_step
from workloads.nn import bert

LABEL = "part: "

CALLS: Mapping[str, tuple[tuple[Any, str], ...]] = {
    "teacher": ((albef_step, "teacher_outputs"),),
    "image_encoder": ((model.Encoders, "image_outputs"), (model.Encoders, "fusion_tokens")),
    "text": ((bert.Bert, "words"), (bert.Bert, "encode_lower"), (bert.Bert, "encode_upper")),
    "fusion": ((bert.Bert, "fuse"), (model.Student, "match_logits")),
    "mlm_head": ((bert.BertForMaskedLM, "word_logits"),),
    "contrast": ((albef_step, "contrast"), (albef_step, "contrastive_loss")),
    "optimizer": ((EagerAdamW, "step"),),
    "ema": ((workload, "update_teacher"),),
}
"""The calls that make up each part; inside one of them, further ones are not told apart."""


def time_shares(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Return the share of a step's time that each part takes; the shares add up to 1."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with _labelled(), profile(activities=activities) as profiled:
        step()
    seconds = _seconds(list(profiled.events() or []), device.type == "cuda")
    total = sum(seconds.values())
    return {part: round(value / total, 4) for part, value in seconds.items()}


@contextmanager
def _labelled() -> Iterator[None]:
    with ExitStack() as stack:
        for part, calls in CALLS.items():
            for owner, name in calls:
                stack.enter_context(patch.object(owner, name, _labelling(part, getattr(owner, name))))
        yield


def _labelling(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def labelled(*arguments: Any, **named: Any) -> Any:
        with record_function(LABEL + part):
            return call(*arguments, **named)

    return labelled


def _seconds(events: list[FunctionEvent], on_gpu: bool) -> dict[str, float]:
    """Return the time per part: of the outermost operations, on the GPU of the kernels they launched."""
    seconds = dict.fromkeys((*CALLS, "other"), 0.0)
    parts: dict[int, str] = {}
    for event in sorted(events, key=lambda each: each.time_range.start):
        if event.name.startswith((LABEL, "ProfilerStep")) or event.is_user_annotation:
            continue
        part = _part_around(event)
        if part is not None and event.sequence_nr >= 0:
            parts.setdefault(event.sequence_nr, part)
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[part or _part_before(event, parts)] += spent
    return seconds


def _part_around(event: FunctionEvent) -> str | None:
    """Return the outermost part that an operation runs in."""
    found, above = None, event.cpu_parent
    while above is not None:
        if above.name.startswith(LABEL):
            found = above.name.removeprefix(LABEL)
        above = above.cpu_parent
    return found


def _part_before(event: FunctionEvent, parts: Mapping[int, str]) -> str:
    """Return the part that a backward operation, or one above it, differentiates."""
    above: FunctionEvent | None = event
    while above is not None:
        if above.sequence_nr in parts and above.name.startswith("autograd::engine"):
            return parts[above.sequence_nr]
        above = above.cpu_parent
    return "other"
