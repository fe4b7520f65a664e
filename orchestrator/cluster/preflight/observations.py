"""What was measured before a run, on this machine or on one of the cluster's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from orchestrator.config.cluster import Footprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Figures that the estimates start from; None is what nobody could measure.

    Args:
        footprint: the model's memory and arithmetic.
        decode_cpu_s: CPU seconds that decoding and augmenting one sample takes.
        epoch_samples: training samples in one epoch.
        done_steps: steps that are done already.
        past_samples_per_s: how fast the run that goes on was of late.
        past_workers: on how many workers.
        where: the machine that measured.
    """

    footprint: Footprint | None = None
    decode_cpu_s: float | None = None
    epoch_samples: int | None = None
    done_steps: int = 0
    past_samples_per_s: float | None = None
    past_workers: int | None = None
    where: str = "this machine"

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Observations:
        """Return what `to_json` returned; figures that this version does not know are left out."""
        known = {field.name for field in fields(Observations)}
        kept = {name: value for name, value in values.items() if name in known}
        if kept.get("footprint") is not None:
            kept["footprint"] = Footprint(**kept["footprint"] | {"sizes": tuple(kept["footprint"]["sizes"])})
        return Observations(**kept)

    def completed_by(self, other: Observations) -> Observations:
        """Return these figures, with another machine's in the place of those that are missing."""
        missing = {
            field.name: getattr(other, field.name)
            for field in fields(self)
            if getattr(self, field.name) is None and getattr(other, field.name) is not None
        }
        return replace(self, **missing, done_steps=self.done_steps or other.done_steps)
