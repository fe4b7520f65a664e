"""`fuseray sweep status NAME`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from orchestrator.config.errors import FuserayError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.sweep_view import SweepView

EVERY_S = 5.0
"""Seconds between two looks at a sweep that goes on."""


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--storage", default="runs", show_default=True, help="Where sweeps are, when NAME is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.option("--watch", "watches", is_flag=True, help="Go on showing it until the sweep has ended; Ctrl-C leaves.")
def command(name: str, storage: str, endpoint: str | None, as_json: bool, watches: bool) -> None:
    """Show how the trials of the sweep NAME are doing: the best, those that run, and the others."""
    from rich.console import Console

    from orchestrator.cli.sweep_table import sweep_table
    from orchestrator.cli.sweep_view import SweepReader
    from orchestrator.sweep.folder import find_sweep

    reader = SweepReader(find_sweep(name, storage, endpoint))
    if as_json:
        click.echo(json.dumps(reader.read().to_json(), indent=2))
        return
    console = Console(highlight=False)
    if watches and console.is_terminal:
        watch(reader.read, console, lambda: time.sleep(EVERY_S))
        return
    console.print(sweep_table(reader.read(), console.width))


def watch(read: Callable[[], SweepView], console: Console, wait: Callable[[], object]) -> None:
    """Show a sweep until it has ended, or until Ctrl-C.

    Args:
        read: returns the sweep as it stands; when it fails later on, what was read last stays.
        console: a terminal.
        wait: waits until it is time for the next look.
    """
    from rich.live import Live

    from orchestrator.cli.sweep_table import sweep_table

    view = read()
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(sweep_table(view, console.width, console.height), refresh=True)
                if view.is_over:
                    break
                wait()
                view = _again(read, view)
    except KeyboardInterrupt:
        return


def _again(read: Callable[[], SweepView], before: SweepView) -> SweepView:
    try:
        return read()
    except FuserayError:
        return before
