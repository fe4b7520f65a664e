"""A plan as tables: what it will be, the machines with their prices, what it costs, and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from orchestrator.cli.findings import show_findings

if TYPE_CHECKING:
    from orchestrator.cli.preflight import Preflight
    from orchestrator.cluster.findings import Finding
    from orchestrator.cluster.preflight.costs import Scenario
    from orchestrator.cluster.preflight.judging import Judgement

WIDTH = 120
UNKNOWN = "unknown"


def show_tables(preflight: Preflight) -> None:
    """Print a plan for people."""
    print_table(_facts(preflight))
    if preflight.judgement is not None:
        print_table(_machines(preflight.judgement))
        print_table(_costs(preflight.judgement))
    show_findings(preflight.findings, WIDTH)
    click.echo(_verdict(preflight.findings))


def print_table(table: Table) -> None:
    """Print a table with a blank line after it; its width is the terminal's, or `WIDTH` elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        console.print()
        return
    with StringIO() as text:
        Console(highlight=False, width=WIDTH, file=text).print(table)
        click.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n")


def _facts(preflight: Preflight) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    facts = dict(preflight.about)
    if (judgement := preflight.judgement) is not None:
        facts |= _estimates(judgement)
        facts["prices"] = f"US dollars, as of {facts['prices']}; spot prices change all the time"
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _estimates(judgement: Judgement) -> dict[str, str]:
    steps, samples, speed = judgement.steps, judgement.samples, judgement.speed
    length = UNKNOWN if steps is None or samples is None else f"{steps:,} steps, {samples:,} samples"
    pace = UNKNOWN if speed is None else f"{rate_text(speed.samples_per_s)} samples/s a worker; {speed.source}"
    return {"length": length, "speed": pace}


def _machines(judgement: Judgement) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("machines", "type", "paid"):
        table.add_column(name)
    for name in ("CPUs", "GPUs", "$/h spot", "$/h on demand", *_headings(judgement.scenarios)):
        table.add_column(name, justify="right")
    for kind in judgement.kinds:
        group = kind.group
        counts = [f"{one.machines.get(group.name, 0)} of {group.most}" for one in judgement.scenarios]
        prices = [UNKNOWN if usd is None else f"{usd:,.2f}" for usd in (kind.prices["spot"], kind.prices["on-demand"])]
        name = f"{group.name} (head)" if group.head and group.name != "head" else group.name
        table.add_row(
            name, group.machine or UNKNOWN, group.market, f"{kind.cpus:g}", f"{group.gpus:g}", *prices, *counts
        )
    return table


def _headings(scenarios: Sequence[Scenario]) -> Iterator[str]:
    for one in scenarios:
        yield f"for {one.workers} worker{'s' if one.workers > 1 else ''}"


def _costs(judgement: Judgement) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("workers", "samples/s", "hours", "cost as in the file", "all on spot", "all on demand"):
        table.add_column(name, justify="right")
    for one in judgement.scenarios:
        rate = UNKNOWN if one.samples_per_s is None else rate_text(one.samples_per_s)
        hours = UNKNOWN if one.hours is None else f"{one.hours:,.1f}"
        dollars = [UNKNOWN if usd is None else f"${usd:,.0f}" for usd in one.usd.values()]
        table.add_row(str(one.workers), rate, hours, *dollars)
    return table


def rate_text(per_s: float) -> str:
    """Return a rate for people."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def _verdict(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.level for finding in findings)
    warnings = f", {counts['warning']} with a warning" if counts["warning"] else ""
    if counts["error"]:
        return f"{counts['error']} of {len(findings)} checks must be mended before the run can start."
    return f"Nothing is in the way of the run: {len(findings)} checks{warnings}."
