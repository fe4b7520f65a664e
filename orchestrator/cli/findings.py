"""Showing what checks have found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.cluster.finding import Finding

MARKS = {"pass": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("ERROR", "red")}


def show_findings(findings: Sequence[Finding]) -> None:
    """Print findings: a table on a terminal, lines elsewhere."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(_table(findings))
    else:
        click.echo("\n".join(map(_line, findings)))


def sound(findings: Sequence[Finding]) -> bool:
    """Return whether nothing has to be mended."""
    return all(finding.level != "error" for finding in findings)


def _table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "check", "found", "fix"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.level]
        table.add_row(Text(mark, style), Text(finding.name), Text(finding.found), Text(finding.fix))
    return table


def _line(finding: Finding) -> str:
    fix = f"\n{'':9}fix: {finding.fix}" if finding.fix else ""
    return f"{MARKS[finding.level][0]:<8} {finding.name}: {finding.found}{fix}"
