"""`fuseray checkpoints VERB`."""

from __future__ import annotations

import click

from orchestrator.cli.verbs import Verbs

VERBS = {
    "list": "Show a run's checkpoints.",
    "verify": "Read every checkpoint and find damaged ones.",
    "pin": "Protect a checkpoint from being pruned.",
    "prune": "Delete the checkpoints that need not stay.",
}


@click.command(cls=Verbs, modules="orchestrator.cli.checkpoints_", about=VERBS)
def command() -> None:
    """Look after the checkpoints of a run."""
