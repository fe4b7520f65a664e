"""`fuseray shards VERB`."""

from __future__ import annotations

import click

from orchestrator.cli.verbs import Verbs

VERBS = {
    "build": ("orchestrator.cli.shards_build:command", "Build shards from a folder of images or a JSON list."),
    "index": ("orchestrator.cli.shards_index:command", "Index shards that exist."),
    "inspect": ("orchestrator.cli.shards_inspect:command", "Print samples and write a contact sheet."),
    "verify": ("orchestrator.cli.shards_verify:command", "Find samples and shards that cannot be used."),
    "stats": (
        "orchestrator.cli.shards_stats:command",
        "Show caption lengths, image sizes and how well the order shuffles.",
    ),
}


@click.command(cls=Verbs, verbs=VERBS)
def command() -> None:
    """Build, index and check image-text shards."""
