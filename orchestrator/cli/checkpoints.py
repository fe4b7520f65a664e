"""`fuseray checkpoints VERB`."""

from __future__ import annotations

import click

from orchestrator.cli.verbs import Verbs

VERBS = {
    "list": ("orchestrator.cli.checkpoints_list:command", "Show a run's checkpoints."),
    "verify": ("orchestrator.cli.checkpoints_verify:command", "Read every checkpoint and find damaged ones."),
    "pin": ("orchestrator.cli.checkpoints_pin:command", "Protect a checkpoint from being pruned."),
    "prune": ("orchestrator.cli.checkpoints_prune:command", "Delete the checkpoints that need not stay."),
}


@click.command(cls=Verbs, verbs=VERBS)
def command() -> None:
    """Look after the checkpoints of a run."""
