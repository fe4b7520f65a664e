"""The plan of a sweep, which `fuseray sweep run` shows before it starts anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import UNKNOWN, WIDTH, print_table, rate_text, show_findings
from orchestrator.config.cluster import Cluster
from orchestrator.config.search_space import Choice, Domain
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.plan.preflight import Preflight, PreflightOptions, preflight_and_result

if TYPE_CHECKING:
    from orchestrator.cluster.findings import Finding
    from orchestrator.config.sweep import SchedulerSection
    from orchestrator.plan.checks import PreflightResult
    from orchestrator.sweep.estimate import Amount, Capacity, SweepEstimate


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """A sweep with its estimate and findings before the start.

    Args:
        sweep: the sweep.
        preflight: of one run of its recipe.
        result: the estimates for that run.
        estimate: of the sweep.
        findings: of the sweep, and those of the run that did not pass.
    """

    sweep: ResolvedSweep
    preflight: Preflight
    result: PreflightResult
    estimate: SweepEstimate
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error, so that the sweep can start."""
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
    room: Capacity | None = None,
) -> PlannedSweep:
    """Check a sweep, measure its recipe, and estimate time and cost. Nothing is started.

    Args:
        sweep: the sweep.
        cluster: where it will run; None for this machine.
        options: given speed, data and prices.
        room: resources that all trials may use together; None for all that the cluster may have.

    Raises:
        RecipeError: the sweep is invalid; all errors are listed with file and line.
        ConfigError: the price table is wrong.
    """
    from orchestrator.cluster.files.read import this_machine
    from orchestrator.sweep.estimate import estimate_findings, estimate_sweep
    from orchestrator.sweep.validate import check_reports, check_sweep

    warnings, recipe = check_sweep(sweep), sweep.recipe({})
    if (known := recipe.recipe.length.steps) is not None:
        warnings += check_reports(sweep, known)
    preflight, result = preflight_and_result(recipe, cluster or this_machine(), options or PreflightOptions())
    if known is None and result.steps is not None:
        warnings += check_reports(sweep, result.steps)
    estimate = estimate_sweep(sweep, result, preflight.observations.decode_cpu_s, room)
    failed_checks = [finding for finding in preflight.findings if finding.level != "pass"]
    return PlannedSweep(
        sweep, preflight, result, estimate, (*estimate_findings(sweep, estimate), *warnings, *failed_checks)
    )


def show_sweep_plan(planned: PlannedSweep, as_json: bool = False) -> None:
    """Print a planned sweep: tables for people, JSON for scripts."""
    if as_json:
        click.echo(json.dumps(planned.to_json(), indent=2, default=str))
        return
    show_sweep_tables(planned)


SCHEDULERS = {
    "none": "every trial runs to its end",
    "asha": "asha: 1 in {reduction} continues after {rungs} of a run",
    "hyperband": "hyperband: 1 in {reduction} of a bracket continues, first after {first_rung:.3g} of a run",
    "pbt": "pbt: the worst {quantile:.0%} take over from the best after every {exchange_every:.3g} of a run",
}


def show_sweep_tables(planned: PlannedSweep) -> None:
    """Print a planned sweep for people."""
    print_table(_facts(planned))
    print_table(_space(planned))
    print_table(_amounts(planned.estimate))
    show_findings(planned.findings, WIDTH)
    click.echo(_summary(planned))


def _facts(planned: PlannedSweep) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(planned):
        table.add_row(name, Text(value))
    return table


def _lines(planned: PlannedSweep) -> Iterator[tuple[str, str]]:
    sweep, estimate, about = planned.sweep.sweep, planned.estimate, planned.preflight.about
    yield "sweep", f"{sweep.name}: {_trials(estimate)}, by {sweep.search.method}"
    yield "objectives", ", ".join(f"{objective.metric} ({objective.mode})" for objective in sweep.objectives)
    yield "scheduler", _scheduler(sweep.scheduler)
    yield "trial", f"{about['run'].partition(' ')[2]}; {_length(planned)}"
    yield "cluster", about["cluster"]
    yield "side by side", _concurrency(estimate)
    yield "speed", _speed(planned)
    yield "prices", f"US dollars, as of {about['prices']}; spot prices change all the time"


def _scheduler(options: SchedulerSection) -> str:
    from orchestrator.sweep.rungs import asha_rungs

    rungs = ", ".join(f"{rung:.3g}" for rung in asha_rungs(options.first_rung, options.reduction))
    return SCHEDULERS[options.kind].format(rungs=rungs, **options.model_dump())


def _trials(estimate: SweepEstimate) -> str:
    if estimate.replicas == 1:
        return _counted(estimate.trials, "trial")
    configurations = _counted(estimate.configurations, "configuration")
    return f"{_counted(estimate.trials, 'trial')}, {configurations} with {estimate.replicas} seeds each"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _length(planned: PlannedSweep) -> str:
    steps, samples = planned.estimate.steps, planned.estimate.trial.samples
    return "length unknown" if steps is None or samples is None else f"{steps:,} steps, {samples:,} samples"


def _concurrency(estimate: SweepEstimate) -> str:
    needs = estimate.needs
    side, gpus = _counted(estimate.side_by_side, "trial"), f" and {_counted(needs.gpus, 'GPU')}" if needs.gpus else ""
    return f"{side} of {needs.cpus:.4g} CPUs{gpus}; the bound is {_bound(estimate.bound)}"


def _bound(bound: str) -> str:
    return {"trials": "the number of trials", "concurrency": "the sweep's concurrency"}.get(bound, bound)


def _speed(planned: PlannedSweep) -> str:
    speed = planned.result.speed
    return UNKNOWN if speed is None else f"{rate_text(speed.samples_per_s)} samples/s a worker; {speed.source}"


def _space(planned: PlannedSweep) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("searched", "values", "where"):
        table.add_column(name, overflow="fold")
    for parameter in planned.sweep.parameters:
        condition = parameter.when.text if parameter.when else ""
        table.add_row(Text(parameter.key), Text(_domain(parameter.domain)), Text(condition))
    for constraint in planned.sweep.constraints:
        table.add_row("", "", Text(constraint.text))
    return table


def _domain(domain: Domain) -> str:
    from orchestrator.sweep.validate import value_text

    if isinstance(domain, Choice):
        return ", ".join(map(value_text, domain.values))
    kind = "whole numbers" if domain.whole else "even on a log scale" if domain.logarithmic else "even"
    return f"{value_text(domain.low)} to {value_text(domain.high)}, {kind}"


def _amounts(estimate: SweepEstimate) -> Table:
    rows = {"one trial": estimate.trial}
    rows |= {"expected": estimate.expected} if estimate.expected is not None else {}
    rows["all to the end"] = estimate.whole
    gpus = ("GPU-hours",) if estimate.needs.gpus else ()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("estimate", no_wrap=True)
    for name in ("trials", "samples", "hours", *gpus, "cost as in the file", "all on spot", "all on demand"):
        table.add_column(name, justify="right")
    for name, amount in rows.items():
        table.add_row(name, *_amount_cells(amount, bool(gpus)))
    return table


def _amount_cells(amount: Amount, gpus: bool) -> list[str]:
    samples = UNKNOWN if amount.samples is None else f"{amount.samples:,}"
    gpu_hours = [_number(amount.gpu_hours)] if gpus else []
    return [f"{amount.runs:.3g}", samples, _number(amount.hours), *gpu_hours, *map(_usd, amount.usd.values())]


def _number(value: Any) -> str:
    return UNKNOWN if value is None else f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def _usd(usd: float | None) -> str:
    return UNKNOWN if usd is None else f"${usd:,.2f}" if usd < 10 else f"${usd:,.0f}"


def _summary(planned: PlannedSweep) -> str:
    errors = sum(finding.level == "error" for finding in planned.findings)
    if errors:
        return f"{errors} of the findings must be fixed before the sweep can start."
    return "Nothing is in the way of the sweep."
