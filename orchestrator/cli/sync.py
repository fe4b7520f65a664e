"""`fuseray sync RUN`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestrator.track.sync import Synced


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Publish in MLflow what it lacks of RUN: metrics, parameters, events, files and the status.

    For a run that ended while MLflow was away. Nothing is published twice. A run that is going on does this by itself.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.run_tools import sync

    run = find_run(name, storage, endpoint)
    synced = sync(run)
    click.echo(json.dumps({"run": run.root.uri} | asdict(synced)) if as_json else _text(run.root.uri, synced))


def _text(uri: str, synced: Synced) -> str:
    done = [f"{synced.steps} steps"] if synced.steps else []
    done += synced.files
    if synced.status != synced.status_before:
        done.append(f"the status {synced.status} (it was {synced.status_before})")
    found = f"MLflow got {', '.join(done)}." if done else f"MLflow has everything; the status is {synced.status}."
    return "\n".join([f"{uri}: {found}", *synced.messages])
