"""`fuseray audit RUN`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestrator.stream.ledger import Audit


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Check that the steps of RUN that count used every sample of an epoch exactly once.

    RUN must have been trained with stream.audit=true. Exit codes: 0 the ledger is exact, 1 it is not.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.plan import audit_run
    from orchestrator.train.run_tools import run_recipe

    run = find_run(name, storage, endpoint)
    audit = audit_run(run, run_recipe(run))
    click.echo(json.dumps(asdict(audit) | {"exact": audit.exact}) if as_json else _text(audit))
    if not audit.exact:
        sys.exit(1)


def _text(audit: Audit) -> str:
    faults = {
        "micro-batches without a line": audit.missing,
        "micro-batches with other samples than the order gives": audit.wrong,
        "micro-batches done twice with different samples": audit.contradictory,
    }
    found = [f"  {len(numbers)} {fault}, first {numbers[0]}" for fault, numbers in faults.items() if numbers]
    found += [f"  {audit.repeated} samples twice in an epoch"] if audit.repeated else []
    verdict = "not exact:" if found else "exact: every sample came once in its epoch, in the order of the recipe."
    about = f"{audit.micro_batches} micro-batches, {audit.samples} samples of which {audit.skipped} were skipped"
    return "\n".join([f"{about}; the ledger is {verdict}", *found])
