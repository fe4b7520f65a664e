"""Showing what checks have found."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.cluster.findings import Finding

MARKS = {"pass": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("ERROR", "red")}

INDENT = " " * 9


def show_findings(findings: Sequence[Finding], width: int | None = None) -> None:
    """Print findings: a table on a terminal, lines elsewhere.

    Args:
        findings: what was found.
        width: characters after which a line goes on below; None for lines of any length.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(_table(findings))
    else:
        click.echo("\n".join(_line(finding, width) for finding in findings))


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


def _line(finding: Finding, width: int | None) -> str:
    found = f"{MARKS[finding.level][0]:<8} {finding.name}: {finding.found}"
    lines = [found, f"{INDENT}fix: {finding.fix}"] if finding.fix else [found]
    if width is not None:
        lines = [fill(line, width, subsequent_indent=INDENT, break_long_words=False) for line in lines]
    return "\n".join(lines)
