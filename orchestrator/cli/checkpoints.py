"""`fuseray checkpoints list|verify|pin|prune RUN`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.console import endpoint_option, json_option, printable, run_storage_option
from orchestrator.cli.main import LazyGroup

if TYPE_CHECKING:
    from orchestrator.storage.run_folder import RunFolder
    from orchestrator.train.checkpoints.maintenance import CheckpointInfo, VerifyResult


VERBS = {
    "list": ("orchestrator.cli.checkpoints:list_command", "Show a run's checkpoints."),
    "verify": ("orchestrator.cli.checkpoints:verify_command", "Read every checkpoint and find damaged ones."),
    "pin": ("orchestrator.cli.checkpoints:pin_command", "Protect a checkpoint from being pruned."),
    "prune": ("orchestrator.cli.checkpoints:prune_command", "Delete the checkpoints that need not be kept."),
}


@click.command(cls=LazyGroup, verbs=VERBS)
def command() -> None:
    """List, verify, pin and prune the checkpoints of a run."""


@click.command()
@click.argument("name", metavar="RUN")
@run_storage_option
@endpoint_option
@click.option("--metric", help="Metric to show; default: the recipe's checkpoint.metric, or loss.")
@json_option
def list_command(name: str, storage: str, endpoint: str | None, metric: str | None, as_json: bool) -> None:
    """Show step, time, size, metric and state of RUN's checkpoints.

    A checkpoint is whole, damaged (see `verify`) or incomplete: being written, or left by an interrupted write.
    The content of the files is not read.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.checkpoints.maintenance import checkpoint_section, list_checkpoints

    run = find_run(name, storage, endpoint)
    entries = list_checkpoints(run)
    if as_json:
        click.echo(json.dumps({"run": run.root.uri, "checkpoints": [checkpoint_values(entry) for entry in entries]}))
    elif not entries:
        click.echo(f"{run.checkpoints.uri} holds no checkpoint yet; the run makes one every checkpoint.every_steps")
    else:
        print_checkpoints(entries, metric or checkpoint_section(run).metric or "loss")


@click.command()
@click.argument("name", metavar="RUN")
@click.argument("step", type=click.IntRange(min=0))
@click.option("--remove", is_flag=True, help="Allow it to be pruned again.")
@run_storage_option
@endpoint_option
@json_option
def pin_command(name: str, step: int, remove: bool, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Protect RUN's checkpoint of STEP from being pruned."""
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.checkpoints.maintenance import pin, unpin

    run = find_run(name, storage, endpoint)
    checkpoint = unpin(run, step) if remove else pin(run, step, datetime.now(UTC))
    if as_json:
        click.echo(json.dumps({"uri": checkpoint.uri, "step": step, "pinned": not remove}))
    else:
        click.echo(
            f"{checkpoint.uri} {'may be pruned again' if remove else 'stays until it is unpinned with --remove'}"
        )


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--keep", type=click.IntRange(min=1), help="Newest checkpoints kept; default: the recipe's.")
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, and delete nothing.")
@run_storage_option
@endpoint_option
@json_option
def prune_command(
    name: str, keep: int | None, dry_run: bool, storage: str, endpoint: str | None, as_json: bool
) -> None:
    """Delete RUN's checkpoints that need not be kept.

    Kept are the newest, the best by the recipe's checkpoint.keep_best, pinned ones, and those being written. Damaged
    ones are deleted with whole ones of their age.
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
        click.echo(
            json.dumps(
                {"run": run.root.uri, "dry_run": dry_run, "deleted": [checkpoint_values(entry) for entry in deleted]}
            )
        )
        return
    verb = "would be deleted" if dry_run else "deleted"
    for entry in deleted:
        click.echo(f"{verb}: step {entry.step} ({entry.condition}, {decimal(entry.size_bytes)})")
    click.echo(f"{verb} in all: {len(deleted)}, {decimal(sum(entry.size_bytes for entry in deleted))}")


@click.command()
@click.argument("name", metavar="RUN")
@run_storage_option
@endpoint_option
@json_option
def verify_command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Read all files of RUN's checkpoints and compare them with sizes and digests.

    A damaged checkpoint is marked, and no run loads it any more; one that is whole again is unmarked. Exit code 1 when
    one is damaged.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.checkpoints.maintenance import Condition

    run, entries = find_run(name, storage, endpoint), []
    for check in _verify_and_mark(run):
        entries.append(check.entry)
        if not as_json:
            click.echo(_verification_text(check))
    if as_json:
        click.echo(json.dumps({"run": run.root.uri, "checkpoints": [checkpoint_values(entry) for entry in entries]}))
    elif not entries:
        click.echo(f"{run.checkpoints.uri} holds no checkpoint")
    if any(entry.condition is Condition.DAMAGED for entry in entries):
        sys.exit(1)


def _verify_and_mark(run: RunFolder) -> Iterator[VerifyResult]:
    """Verify the checkpoints and mark them accordingly; a mark that cannot be written is only reported."""
    from orchestrator.storage.retry import StorageError
    from orchestrator.train.checkpoints.maintenance import update_damage_mark, verify

    for check in verify(run):
        try:
            update_damage_mark(check, datetime.now(UTC))
        except StorageError as error:
            click.echo(f"the mark on the checkpoint of step {check.entry.step} is not up to date: {error}", err=True)
        yield check


def _verification_text(check: VerifyResult) -> str:
    entry = check.entry
    about = f"step {entry.step}: {condition_text(entry)}"
    if entry.reason:
        about += f" ({printable(entry.reason)})"
    return f"{about}; it was marked as damaged and is not any more" if check.unmark else about


def print_checkpoints(entries: Sequence[CheckpointInfo], metric: str) -> None:
    """Print a table of checkpoints, and below it what is wrong with damaged ones."""
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
        table.add_row(str(entry.step), _time(entry), decimal(entry.size_bytes), shown, condition_text(entry))
    Console(highlight=False).print(table)
    for entry in entries:
        if entry.reason:
            click.echo(f"step {entry.step}: {printable(entry.reason)}")


def condition_text(entry: CheckpointInfo) -> str:
    """Return a checkpoint's condition, and whether it is pinned."""
    return f"{entry.condition}, pinned" if entry.pinned else str(entry.condition)


def checkpoint_values(entry: CheckpointInfo) -> dict[str, Any]:
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
