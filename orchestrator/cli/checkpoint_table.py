"""Checkpoints as lines of a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.printable import printable

if TYPE_CHECKING:
    from orchestrator.train.checkpoints.maintenance import Entry


def print_table(entries: Sequence[Entry], metric: str) -> None:
    """Print a line per checkpoint, and what is wrong with it on a second one."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("step", "saved", "size", metric, "state"):
        table.add_column(Text(printable(title)), justify="left" if title in ("saved", "state") else "right")
    for entry in entries:
        value = entry.metrics.get(metric)
        shown = "-" if value is None else f"{value:.4g}"
        table.add_row(str(entry.step), _time(entry), decimal(entry.size_bytes), shown, state(entry))
    Console(highlight=False).print(table)
    for entry in entries:
        if entry.reason:
            click.echo(f"step {entry.step}: {printable(entry.reason)}")


def state(entry: Entry) -> str:
    """Return what a checkpoint is worth in a few words."""
    return f"{entry.condition}, pinned" if entry.pinned else str(entry.condition)


def plain(entry: Entry) -> dict[str, Any]:
    """Return a checkpoint as plain JSON values."""
    return {
        "step": entry.step,
        "uri": entry.place.uri,
        "saved": entry.changed.isoformat(timespec="seconds") if entry.changed else None,
        "size_bytes": entry.size_bytes,
        "metrics": dict(entry.metrics),
        "state": str(entry.condition),
        "pinned": entry.pinned,
        "reason": entry.reason,
    }


def _time(entry: Entry) -> str:
    return entry.changed.astimezone().strftime("%Y-%m-%d %H:%M:%S") if entry.changed else "-"
