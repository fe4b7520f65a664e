"""`fuseray plan RECIPE --cluster CLUSTER [key.path=value ...]`: a preflight as tables or JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from orchestrator.cli.console import UNKNOWN, WIDTH, json_option, print_table, rate_text, show_findings
from orchestrator.cli.files import cluster_file, load_and_say, recipe_file
from orchestrator.config.document import read_extended
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.plan.preflight import MFU, Preflight, PreflightOptions, run_here, run_preflight

if TYPE_CHECKING:
    from orchestrator.cluster.findings import Finding
    from orchestrator.plan.checks import PreflightResult
    from orchestrator.plan.estimates import Scenario


PATH = click.Path(path_type=Path)
POSITIVE = click.FloatRange(min=0, min_open=True)
SHARE = click.FloatRange(min=0, max=1, min_open=True)


@click.command()
@click.argument("recipe", type=recipe_file)
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--cluster",
    type=cluster_file,
    metavar="CLUSTER",
    help="The cluster's YAML file, or a name (see `fuseray clusters`).",
)
@click.option("--here", is_flag=True, help="Check this machine as one of the cluster's nodes; needs no --cluster.")
@click.option("--samples", type=click.IntRange(min=1), help="Plan as if the training data had so many samples.")
@click.option("--mfu", type=SHARE, default=MFU, show_default=True, help="Share of a GPU's peak that training reaches.")
@click.option("--samples-per-s", type=POSITIVE, help="Samples per second and worker, as measured; instead of --mfu.")
@click.option("--prices", type=PATH, metavar="FILE", help="Prices of your own, over the project's table.")
@click.option("--resume", is_flag=True, help="Plan the rest of the recipe's own run, at the speed that its log shows.")
@json_option
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    cluster: Path | None,
    here: bool,
    samples: int | None,
    mfu: float,
    samples_per_s: float | None,
    prices: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Estimate what RECIPE needs on a cluster and costs, and check that it can run. Nothing is started.

    Exit code 2 when something must be fixed first, otherwise 0.
    """
    if not here and cluster is None:
        raise click.UsageError("name the cluster with --cluster FILE, or check this machine alone with --here")
    resolved = _recipe(recipe, overrides, samples)
    options = PreflightOptions(
        mfu=mfu, samples_per_s=samples_per_s, samples=samples, prices=prices, resume=resume, quiet=as_json
    )
    preflight = _preflight(resolved, None if here else cluster, options)
    show_preflight(preflight, as_json)
    if not preflight.ok:
        sys.exit(2)


def _preflight(resolved: ResolvedRecipe, cluster: Path | None, options: PreflightOptions) -> Preflight:
    if cluster is None:
        return run_here(resolved, options)

    from orchestrator.cluster.files.read import read_cluster

    return run_preflight(resolved, read_cluster(cluster), options)


def _recipe(path: Path, overrides: tuple[str, ...], samples: int | None) -> ResolvedRecipe:
    """Load the recipe; with a given number of samples it need not name any data."""
    if samples is None or _names_data(path, overrides):
        return load_and_say(path, overrides)

    from orchestrator.plan.checks import PLACEHOLDER_URI

    return load_and_say(path, (*overrides, f"data.train={PLACEHOLDER_URI}"))


def _names_data(path: Path, overrides: tuple[str, ...]) -> bool:
    document = read_extended(path)
    for assignment in overrides:
        document.override(assignment)
    data = document.to_dict().get("data")
    return isinstance(data, dict) and bool(data.get("train") or data.get("mix"))


def show_preflight(preflight: Preflight, as_json: bool) -> None:
    """Print a plan: tables for people, JSON for scripts."""
    if as_json:
        click.echo(json.dumps(preflight.to_json(), indent=2, default=str))
        return
    show_tables(preflight)


def show_tables(preflight: Preflight) -> None:
    """Print a plan for people."""
    print_table(_facts(preflight))
    if preflight.result is not None:
        print_table(_machines(preflight.result))
        print_table(_costs(preflight.result))
    show_findings(preflight.findings, WIDTH)
    click.echo(_summary(preflight.findings))


def _facts(preflight: Preflight) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    facts = dict(preflight.about)
    if (result := preflight.result) is not None:
        facts |= _estimates(result)
        facts["prices"] = f"US dollars, as of {facts['prices']}; spot prices change all the time"
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _estimates(result: PreflightResult) -> dict[str, str]:
    steps, samples, speed = result.steps, result.samples, result.speed
    length = UNKNOWN if steps is None or samples is None else f"{steps:,} steps, {samples:,} samples"
    pace = UNKNOWN if speed is None else f"{rate_text(speed.samples_per_s)} samples/s a worker; {speed.source}"
    return {"length": length, "speed": pace}


def _machines(result: PreflightResult) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("machines", "type", "paid"):
        table.add_column(name)
    for name in ("CPUs", "GPUs", "$/h spot", "$/h on demand", *_worker_headings(result.scenarios)):
        table.add_column(name, justify="right")
    for kind in result.node_types:
        group = kind.group
        counts = [f"{scenario.machines.get(group.name, 0)} of {group.most}" for scenario in result.scenarios]
        prices = [UNKNOWN if usd is None else f"{usd:,.2f}" for usd in (kind.prices["spot"], kind.prices["on-demand"])]
        name = f"{group.name} (head)" if group.head and group.name != "head" else group.name
        table.add_row(
            name, group.machine or UNKNOWN, group.market, f"{kind.cpus:g}", f"{group.gpus:g}", *prices, *counts
        )
    return table


def _worker_headings(scenarios: Sequence[Scenario]) -> Iterator[str]:
    for scenario in scenarios:
        yield f"for {scenario.workers} worker{'s' if scenario.workers > 1 else ''}"


def _costs(result: PreflightResult) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("workers", "samples/s", "hours", "cost as in the file", "all on spot", "all on demand"):
        table.add_column(name, justify="right")
    for scenario in result.scenarios:
        rate = UNKNOWN if scenario.samples_per_s is None else rate_text(scenario.samples_per_s)
        hours = UNKNOWN if scenario.hours is None else f"{scenario.hours:,.1f}"
        dollars = [UNKNOWN if usd is None else f"${usd:,.0f}" for usd in scenario.usd.values()]
        table.add_row(str(scenario.workers), rate, hours, *dollars)
    return table


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.level for finding in findings)
    warnings = f", {counts['warning']} with a warning" if counts["warning"] else ""
    if counts["error"]:
        return f"{counts['error']} of {len(findings)} checks must be fixed before the run can start."
    return f"Nothing is in the way of the run: {len(findings)} checks{warnings}."
