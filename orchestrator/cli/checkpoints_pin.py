"""`fuseray checkpoints pin RUN STEP`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click


@click.command()
@click.argument("name", metavar="RUN")
@click.argument("step", type=click.IntRange(min=0))
@click.option("--remove", is_flag=True, help="Let it be pruned again.")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(name: str, step: int, remove: bool, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Protect RUN's checkpoint of STEP from being pruned."""
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.checkpoints.maintenance import pin, unpin

    run = find_run(name, storage, endpoint)
    place = unpin(run, step) if remove else pin(run, step, datetime.now(UTC))
    if as_json:
        click.echo(json.dumps({"uri": place.uri, "step": step, "pinned": not remove}))
    else:
        click.echo(f"{place.uri} {'may be pruned again' if remove else 'stays until it is unpinned with --remove'}")
