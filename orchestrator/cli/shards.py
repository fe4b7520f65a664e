"""`fuseray shards VERB`."""

from __future__ import annotations

import click

from orchestrator.cli.verbs import Verbs

VERBS = {
    "build": "Build shards from a folder of images or a JSON list.",
    "index": "Index shards that exist.",
    "inspect": "Print samples and write a contact sheet.",
    "verify": "Find samples and shards that cannot be used.",
    "stats": "Show caption lengths, image sizes and how well the order shuffles.",
}


@click.command(cls=Verbs, modules="orchestrator.cli.shards_", about=VERBS)
def command() -> None:
    """Build, index and check image-text shards."""
