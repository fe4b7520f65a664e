"""What `fuseray trace` prints, for people and for scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cli.printable import printable
from orchestrator.stream.dataset.sidecar import Unreadable

if TYPE_CHECKING:
    from orchestrator.stream.trace import TracedBatch, TracedSample
    from orchestrator.train.run_tools import TracedSpike

SHOWN = 8
"""Samples of each micro-batch that are printed when a whole step is asked for."""

LONGEST = 70
"""Letters of a caption that are printed."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run.

    Args:
        run: URI of the run's folder.
        step: the step.
        steps: steps in the run.
        metrics: its figures.
        note: why there are none, if so.
        data_sets: URIs of the run's data sets.
    """

    run: str
    step: int
    steps: int
    metrics: Mapping[str, float]
    note: str
    data_sets: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"metrics": {name: _number(value) for name, value in self.metrics.items()}}


def step_text(step: Step) -> str:
    """Return what is known of a step."""
    lines = [f"step {step.step} of {step.run}, which has {step.steps} steps"]
    if step.metrics:
        lines.append("  " + "  ".join(f"{name} {value:.6g}" for name, value in step.metrics.items()))
    lines += [f"  {step.note}"] if step.note else []
    if len(step.data_sets) > 1:
        lines += [f"  data set {number}: {uri}" for number, uri in enumerate(step.data_sets)]
    else:
        lines.append(f"  data set: {step.data_sets[0]}")
    return "\n".join(lines)


def batch_text(batch: TracedBatch, step: Step, whole: bool) -> str:
    """Return a micro-batch and its samples; all of them, or the first and those that were skipped."""
    skipped = sum(bool(sample.skipped) for sample in batch.samples)
    shown = batch.samples if whole else batch.samples[:SHOWN]
    left_out = [sample for sample in batch.samples[len(shown) :] if sample.skipped]
    lines = [f"micro-batch {batch.number}: {len(batch.samples)} samples, {skipped} skipped; {batch.ledger.value}"]
    for sample in (*shown, *left_out):
        lines += _lines(sample, step.data_sets)
    if more := len(batch.samples) - len(shown) - len(left_out):
        lines.append(f"  and {more} more; they are listed with --micro-batch {batch.place}")
    return "\n".join(lines)


def batch_values(batch: TracedBatch) -> dict[str, Any]:
    """Return a micro-batch and its samples as JSON values."""
    return {
        "number": batch.number,
        "place": batch.place,
        "ledger": batch.ledger.name.lower(),
        "samples": [_values(sample) for sample in batch.samples],
    }


def spikes_text(spikes: Sequence[TracedSpike], run: str, metric: str) -> str:
    """Return jumps of a metric, with what to look at next."""
    if not spikes:
        return f"{metric} of {run} never jumped."
    lines = [f"{metric} of {run} jumped; the largest first:"]
    for found in spikes:
        spike = found.spike
        steps = f"step {spike.step}" if spike.step == spike.last_step else f"steps {spike.step} to {spike.last_step}"
        expected = f" where {spike.expected:.6g} was expected" if math.isfinite(spike.expected) else ""
        lines.append(f"{steps}: {spike.value:.6g}{expected}, score {spike.score:.1f}")
        lines += [f"  {printable(batch.text())}" for batch in found.micro_batches]
    lines.append(f"The samples of a step: fuseray trace {run} --step {spikes[0].spike.step}")
    return "\n".join(lines)


def spikes_values(spikes: Sequence[TracedSpike]) -> list[dict[str, Any]]:
    """Return jumps of a metric as JSON values."""
    return [
        {
            **{name: _number(value) for name, value in asdict(found.spike).items()},
            "micro_batches": [asdict(batch) for batch in found.micro_batches],
        }
        for found in spikes
    ]


def _lines(sample: TracedSample, data_sets: Sequence[str]) -> list[str]:
    number = f"data set {data_sets.index(sample.data_set)}, " if len(data_sets) > 1 else ""
    place = f"{number}{sample.shard.rpartition('/')[2]} row {sample.row}, epoch {sample.epoch}"
    lines = [f"  {printable(sample.key)}  ({printable(place)})  {_caption(sample)}"]
    if isinstance(sample.content, Unreadable) and not sample.skipped:
        lines.append(f"    cannot be read: {printable(str(sample.content.fault))}")
    return lines + ([f"    skipped: {printable(sample.skipped)}"] if sample.skipped else [])


def _caption(sample: TracedSample) -> str:
    captions = () if isinstance(sample.content, Unreadable) else sample.content.captions
    if not captions:
        return ""
    first = printable(captions[0][:LONGEST]) + ("…" if len(captions[0]) > LONGEST else "")
    return first if len(captions) == 1 else f"{first} (and {len(captions) - 1} more captions)"


def _values(sample: TracedSample) -> dict[str, Any]:
    content = sample.content
    return {
        "key": sample.key,
        "data_set": sample.data_set,
        "epoch": sample.epoch,
        "shard": sample.shard,
        "row": sample.row,
        "position": sample.position,
        "captions": [] if isinstance(content, Unreadable) else list(content.captions),
        "skipped": sample.skipped or None,
        "fault": str(content.fault) if isinstance(content, Unreadable) else None,
    }


def _number(value: float) -> float | str:
    """Return a number as JSON can write it: those that are not finite as text."""
    return value if math.isfinite(value) else str(value)
