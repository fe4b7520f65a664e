"""`fuseray checkpoints verify RUN`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestrator.storage.run_folder import RunFolder
    from orchestrator.train.checkpoints.maintenance import Verdict


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Read all files of RUN's checkpoints and compare them with sizes and digests.

    A damaged checkpoint is marked, and no run starts from it any more; one that is whole again loses its mark. Exit
    code 1 when one is damaged.
    """
    from orchestrator.cli.checkpoint_table import plain
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.checkpoints.maintenance import Condition

    run, found = find_run(name, storage, endpoint), []
    for verdict in _recorded(run):
        found.append(verdict.entry)
        if not as_json:
            click.echo(_text(verdict))
    if as_json:
        click.echo(json.dumps({"run": run.root.uri, "checkpoints": [plain(entry) for entry in found]}))
    elif not found:
        click.echo(f"{run.checkpoints.uri} holds no checkpoint")
    if any(entry.condition is Condition.DAMAGED for entry in found):
        sys.exit(1)


def _recorded(run: RunFolder) -> Iterator[Verdict]:
    """Yield what is found, marked on the checkpoints; a mark that is refused is told and no more."""
    from orchestrator.storage.retry import StorageError
    from orchestrator.train.checkpoints.maintenance import keep_record, verify

    for verdict in verify(run):
        try:
            keep_record(verdict, datetime.now(UTC))
        except StorageError as error:
            click.echo(f"the mark on the checkpoint of step {verdict.entry.step} is not up to date: {error}", err=True)
        yield verdict


def _text(verdict: Verdict) -> str:
    from orchestrator.cli.checkpoint_table import state
    from orchestrator.cli.printable import printable

    entry = verdict.entry
    about = f"step {entry.step}: {state(entry)}"
    if entry.reason:
        about += f" ({printable(entry.reason)})"
    return f"{about}; it was marked as damaged and is not any more" if verdict.unmark else about
