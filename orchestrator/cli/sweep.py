"""`fuseray sweep SWEEP [key.path=value ...]` and `fuseray sweep VERB`."""

from __future__ import annotations

import click

from orchestrator.cli.verbs import Verbs

RUN = "run"
VERBS = {
    RUN: (
        "orchestrator.cli.sweep_run:command",
        "Run a sweep, or continue one with --resume; the word 'run' may be left out.",
    ),
    "status": ("orchestrator.cli.sweep_status:command", "Show the trials of a sweep."),
    "report": (
        "orchestrator.cli.sweep_report:command",
        "Write a sweep's report page, its best recipe, and register its best model.",
    ),
}


class Sweeps(Verbs):
    """A group whose first verb is meant when none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb in front of a sweep's file."""
        named = not args or args[0] in VERBS or args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if named else [RUN, *args])


@click.command(cls=Sweeps, verbs=VERBS)
def command() -> None:
    """Search hyperparameters: fuseray sweep SWEEP.yaml [KEY.PATH=VALUE]..."""
