"""`fuseray report RUN`."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Write RUN's report, one self-contained HTML page, into the run's folder and its MLflow run."""
    from rich.filesize import decimal

    from orchestrator.report.gather import gather
    from orchestrator.report.page import render
    from orchestrator.storage.run_folder import find_run
    from orchestrator.track.run_writer import TrackedRun

    run = find_run(name, storage, endpoint)
    page = render(gather(run))
    run.report.write(page.encode())
    file = run.read()
    TrackedRun(file.tracking_uri, file.mlflow_run_id).text(page, "report.html")
    size = len(page.encode())
    click.echo(
        json.dumps({"report": run.report.uri, "bytes": size})
        if as_json
        else f"The report is {run.report.uri} ({decimal(size)}); open it in a browser."
    )
