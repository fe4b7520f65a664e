"""Command-line options that many verbs share, as click decorators."""

from __future__ import annotations

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
"""`--json` -> `as_json: bool`."""

endpoint_option = click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
"""`--endpoint` -> `endpoint: str | None`."""

run_storage_option = click.option(
    "--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name."
)
"""`--storage` of verbs that take a RUN -> `storage: str`."""

sweep_storage_option = click.option(
    "--storage", default="runs", show_default=True, help="Where sweeps are, when NAME is a name."
)
"""`--storage` of verbs that take a sweep's NAME -> `storage: str`."""
