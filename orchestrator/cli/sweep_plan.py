"""What a sweep will be, before anything is started: what `fuseray sweep run` shows first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.preflight import Preflight, PreflightOptions, judged_preflight
from orchestrator.config.cluster import Cluster
from orchestrator.config.sweep import ResolvedSweep

if TYPE_CHECKING:
    from orchestrator.cluster.findings import Finding
    from orchestrator.cluster.preflight.judging import Judgement
    from orchestrator.sweep.estimating import SweepEstimate
    from orchestrator.sweep.room import Room


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """A sweep with all that was found before its start.

    Args:
        sweep: the sweep.
        preflight: of one run of its recipe.
        judgement: what follows for that run.
        estimate: of the sweep.
        findings: of the sweep, and those of the run that are not as they should be.
    """

    sweep: ResolvedSweep
    preflight: Preflight
    judgement: Judgement
    estimate: SweepEstimate
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing has to be mended before the sweep can start."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        estimate: Mapping[str, Any] = asdict(self.estimate)
        return {
            "ok": self.ok,
            "sweep": self.sweep.sweep.model_dump(mode="json"),
            "trials": self.estimate.trials,
            **estimate,
            "findings": [asdict(finding) for finding in self.findings],
        }


def plan_sweep(
    sweep: ResolvedSweep,
    cluster: Cluster | None = None,
    options: PreflightOptions | None = None,
    room: Room | None = None,
) -> PlannedSweep:
    """Check a sweep, measure its recipe, and work out what the sweep takes. Nothing is started.

    Args:
        sweep: the sweep.
        cluster: where it is to run; None for this machine.
        options: what the user says about the recipe's speed, data and prices.
        room: what its trials may use together; None for all that the cluster may have.

    Raises:
        RecipeError: the sweep cannot do what it says; all faults are listed with file and line.
        SpecError: the price table is wrong.
    """
    from orchestrator.cluster.files.read import this_machine
    from orchestrator.sweep.checking import check_reports, check_sweep
    from orchestrator.sweep.estimate_findings import estimate_findings
    from orchestrator.sweep.estimating import estimate_sweep

    notes, recipe = check_sweep(sweep), sweep.recipe({})
    if (known := recipe.recipe.length.steps) is not None:
        notes += check_reports(sweep, known)
    preflight, judgement = judged_preflight(recipe, cluster or this_machine(), options or PreflightOptions())
    if known is None and judgement.steps is not None:
        notes += check_reports(sweep, judgement.steps)
    estimate = estimate_sweep(sweep, judgement, preflight.observations.decode_cpu_s, room)
    found = [finding for finding in preflight.findings if finding.level != "pass"]
    return PlannedSweep(sweep, preflight, judgement, estimate, (*estimate_findings(sweep, estimate), *notes, *found))


def show_sweep_plan(planned: PlannedSweep, as_json: bool = False) -> None:
    """Print a planned sweep: tables for people, JSON for scripts."""
    if as_json:
        click.echo(json.dumps(planned.to_json(), indent=2, default=str))
        return
    from orchestrator.cli.sweep_plan_tables import show_sweep_tables

    show_sweep_tables(planned)
