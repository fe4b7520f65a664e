"""`fuseray checkpoints list RUN`."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--metric", help="Figure to show; default: the recipe's checkpoint.metric, or loss.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(name: str, storage: str, endpoint: str | None, metric: str | None, as_json: bool) -> None:
    """Show step, time, size, metric and state of RUN's checkpoints.

    A checkpoint is whole, damaged (see `verify`) or incomplete: being written, or left by a writing that broke off.
    The content of the files is not read.
    """
    from orchestrator.cli.checkpoint_table import plain, print_table
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
