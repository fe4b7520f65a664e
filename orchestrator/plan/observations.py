"""What is measured before a run, on this machine or on one of the cluster's, for the estimates to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from typing import Any

from orchestrator.cluster.findings import Finding, passed, warned, with_timeout
from orchestrator.config.cluster import Footprint
from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.plan.profile_inputs import NotMeasuredError, Prepared, prepare
from workloads.contract import WorkloadError

TRANSFORM_TIMEOUT_S = 20.0
"""For the transform, whose tokenizer may be looked up on a hub; torch's import may take as long again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Measurements that the estimates start from; None where nothing could be measured.

    Args:
        footprint: the model's memory and FLOPs.
        decode_cpu_s: CPU seconds that decoding and augmenting one sample takes.
        epoch_samples: training samples in one epoch.
        done_steps: steps that the run has done already.
        past_samples_per_s: how fast the resumed run was in its newest steps.
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
        """Return the measurements as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Observations:
        """Return what `to_json` returned; keys that this version does not know are ignored."""
        names = {field.name for field in fields(Observations)}
        known = {name: value for name, value in values.items() if name in names}
        if known.get("footprint") is not None:
            known["footprint"] = Footprint(**known["footprint"] | {"sizes": tuple(known["footprint"]["sizes"])})
        return Observations(**known)

    def completed_by(self, other: Observations) -> Observations:
        """Return these measurements, with another machine's in place of those that are missing."""
        missing = {
            field.name: getattr(other, field.name)
            for field in fields(self)
            if getattr(self, field.name) is None and getattr(other, field.name) is not None
        }
        return replace(self, **missing, done_steps=self.done_steps or other.done_steps)


def measure_model(resolved: ResolvedRecipe) -> tuple[tuple[Finding, ...], Observations]:
    """Measure the model's footprint and the cost of decoding on this machine.

    Returns:
        A finding that says what was measured, or why nothing could be, and the measurements.
    """
    observations = Observations()
    try:
        prepared = _prepare(resolved)
        observations = replace(observations, decode_cpu_s=prepared.cpu_s)
        finding, footprint = _measure_footprint(resolved, prepared)
        return (finding,), replace(observations, footprint=footprint)
    except (FuserayError, WorkloadError, TimeoutError, RuntimeError) as error:  # RuntimeError: torch has no own class
        fix = "Nothing, if the cluster's machines can: they check it before training begins."
        reason = str(error).splitlines()[0]
        return (warned("model", f"memory and arithmetic are not checked here: {reason}", fix),), observations


def _prepare(resolved: ResolvedRecipe) -> Prepared:
    if find_spec("torch") is None:
        raise NotMeasuredError("torch is not installed on this machine")
    import torch  # noqa: F401 - so that the timeout below covers files and hubs alone

    return with_timeout(TRANSFORM_TIMEOUT_S, lambda: prepare(resolved))


def _measure_footprint(resolved: ResolvedRecipe, prepared: Prepared) -> tuple[Finding, Footprint]:
    from orchestrator.cluster.doctor.examine import spare_memory_bytes
    from orchestrator.plan.profile_model import measure_footprint  # imports torch

    footprint = measure_footprint(resolved, prepared, spare_memory_bytes())
    sizes = " and ".join(map(str, footprint.sizes))
    summary = (
        f"{footprint.trained_bytes / 1e6:,.0f} MB of parameters are trained, {footprint.kept_bytes / 1e6:,.0f} MB are "
        f"not trained; {footprint.flop_per_sample / 1e9:,.3g} GFLOP a sample; micro-batches of {sizes} ran on the "
        f"CPU, {footprint.seconds:.0f} s"
    )
    return passed("model", summary), footprint
