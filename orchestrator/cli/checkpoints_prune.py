"""`fuseray checkpoints prune RUN`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--keep", type=click.IntRange(min=1), help="Newest checkpoints kept; default: the recipe's.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(name: str, keep: int | None, dry_run: bool, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Delete RUN's checkpoints that need not stay.

    The newest ones stay, the best ones that the recipe's checkpoint.keep_best asks for, pinned ones, and what is being
    written. Damaged ones go with whole ones of their age.
    """
    from rich.filesize import decimal

    from orchestrator.cli.checkpoint_table import plain
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
