"""`fuseray checkpoints VERB`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.console import printable
from orchestrator.cli.main import Verbs

if TYPE_CHECKING:
    from orchestrator.storage.run_folder import RunFolder
    from orchestrator.train.checkpoints.maintenance import CheckpointInfo, VerifyResult


VERBS = {
    "list": ("orchestrator.cli.checkpoints:list_command", "Show a run's checkpoints."),
    "verify": ("orchestrator.cli.checkpoints:verify_command", "Read every checkpoint and find damaged ones."),
    "pin": ("orchestrator.cli.checkpoints:pin_command", "Protect a checkpoint from being pruned."),
    "prune": ("orchestrator.cli.checkpoints:prune_command", "Delete the checkpoints that need not stay."),
}


@click.command(cls=Verbs, verbs=VERBS)
def command() -> None:
    """Look after the checkpoints of a run."""


# `fuseray checkpoints list RUN`.


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--metric", help="Figure to show; default: the recipe's checkpoint.metric, or loss.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def list_command(name: str, storage: str, endpoint: str | None, metric: str | None, as_json: bool) -> None:
    """Show step, time, size, metric and state of RUN's checkpoints.

    A checkpoint is whole, damaged (see `verify`) or incomplete: being written, or left by a writing that broke off.
    The content of the files is not read.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.checkpoints.maintenance import checkpoint_section, list_checkpoints

    run = find_run(name, storage, endpoint)
    entries = list_checkpoints(run)
    if as_json:
        click.echo(json.dumps({"run": run.root.uri, "checkpoints": [plain(entry) for entry in entries]}))
    elif not entries:
        click.echo(f"{run.checkpoints.uri} holds no checkpoint yet; the run makes one every checkpoint.every_steps")
    else:
        print_table(entries, metric or checkpoint_section(run).metric or "loss")


# `fuseray checkpoints pin RUN STEP`.


@click.command()
@click.argument("name", metavar="RUN")
@click.argument("step", type=click.IntRange(min=0))
@click.option("--remove", is_flag=True, help="Let it be pruned again.")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def pin_command(name: str, step: int, remove: bool, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Protect RUN's checkpoint of STEP from being pruned."""
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.checkpoints.maintenance import pin, unpin

    run = find_run(name, storage, endpoint)
    folder = unpin(run, step) if remove else pin(run, step, datetime.now(UTC))
    if as_json:
        click.echo(json.dumps({"uri": folder.uri, "step": step, "pinned": not remove}))
    else:
        click.echo(f"{folder.uri} {'may be pruned again' if remove else 'stays until it is unpinned with --remove'}")


# `fuseray checkpoints prune RUN`.


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--keep", type=click.IntRange(min=1), help="Newest checkpoints kept; default: the recipe's.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def prune_command(
    name: str, keep: int | None, dry_run: bool, storage: str, endpoint: str | None, as_json: bool
) -> None:
    """Delete RUN's checkpoints that need not stay.

    The newest ones stay, the best ones that the recipe's checkpoint.keep_best asks for, pinned ones, and what is being
    written. Damaged ones go with whole ones of their age.
    """
    from rich.filesize import decimal

    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.checkpoints.maintenance import checkpoint_section, prune

    run = find_run(name, storage, endpoint)
    section = checkpoint_section(run)
    if keep is not None:
        section = section.model_copy(update={"keep": keep})
    deleted = prune(run, section, datetime.now(UTC), dry_run)
    if as_json:
        click.echo(json.dumps({"run": run.root.uri, "dry_run": dry_run, "deleted": [plain(one) for one in deleted]}))
        return
    verb = "would be deleted" if dry_run else "deleted"
    for entry in deleted:
        click.echo(f"{verb}: step {entry.step} ({entry.condition}, {decimal(entry.size_bytes)})")
    click.echo(f"{verb} in all: {len(deleted)}, {decimal(sum(entry.size_bytes for entry in deleted))}")


# `fuseray checkpoints verify RUN`.


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def verify_command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Read all files of RUN's checkpoints and compare them with sizes and digests.

    A damaged checkpoint is marked, and no run starts from it any more; one that is whole again loses its mark. Exit
    code 1 when one is damaged.
    """
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


def _recorded(run: RunFolder) -> Iterator[VerifyResult]:
    """Yield what is found, marked on the checkpoints; a mark that is refused is told and no more."""
    from orchestrator.storage.retry import StorageError
    from orchestrator.train.checkpoints.maintenance import update_damage_mark, verify

    for verdict in verify(run):
        try:
            update_damage_mark(verdict, datetime.now(UTC))
        except StorageError as error:
            click.echo(f"the mark on the checkpoint of step {verdict.entry.step} is not up to date: {error}", err=True)
        yield verdict


def _text(verdict: VerifyResult) -> str:
    from orchestrator.cli.console import printable

    entry = verdict.entry
    about = f"step {entry.step}: {state(entry)}"
    if entry.reason:
        about += f" ({printable(entry.reason)})"
    return f"{about}; it was marked as damaged and is not any more" if verdict.unmark else about


# Checkpoints as lines of a table, and as JSON.


def print_table(entries: Sequence[CheckpointInfo], metric: str) -> None:
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


def state(entry: CheckpointInfo) -> str:
    """Return what a checkpoint is worth in a few words."""
    return f"{entry.condition}, pinned" if entry.pinned else str(entry.condition)


def plain(entry: CheckpointInfo) -> dict[str, Any]:
    """Return a checkpoint as plain JSON values."""
    return {
        "step": entry.step,
        "uri": entry.folder.uri,
        "saved": entry.changed.isoformat(timespec="seconds") if entry.changed else None,
        "size_bytes": entry.size_bytes,
        "metrics": dict(entry.metrics),
        "state": str(entry.condition),
        "pinned": entry.pinned,
        "reason": entry.reason,
    }


def _time(entry: CheckpointInfo) -> str:
    return entry.changed.astimezone().strftime("%Y-%m-%d %H:%M:%S") if entry.changed else "-"
