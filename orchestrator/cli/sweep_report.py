"""`fuseray sweep report NAME`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestrator.sweep.reporting.writing import SweepReport


@click.command(name="report")
@click.argument("name", metavar="NAME")
@click.option("--storage", default="runs", show_default=True, help="Where sweeps are, when NAME is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Write NAME's report: the page, the best configuration's recipe, and its model in MLflow's registry.

    A sweep that still runs can be reported, too.
    """
    from orchestrator.sweep.folder import find_sweep
    from orchestrator.sweep.reporting.writing import write_report

    found = write_report(find_sweep(name, storage, endpoint))
    if as_json:
        click.echo(json.dumps(as_values(found)))
        return
    click.echo("\n".join(lines(found)))
    if found.unsent:
        click.echo("Do this again when MLflow answers; nothing is registered twice.", err=True)


def as_values(found: SweepReport) -> dict[str, object]:
    """Return a report as JSON has it."""
    best = found.best
    return {
        "report": found.report,
        "bytes": found.size_bytes,
        "status": found.status,
        "best": best
        and {
            "configuration": best.number,
            "trial": found.trial,
            "assignment": dict(best.assignment),
            "objectives": {
                metric: {"mean": score.mean, "spread": score.spread, "replicas": len(score.values)}
                for metric, score in zip(found.metrics, best.scores, strict=True)
            },
            "recipe": found.recipe,
        },
        "model": found.registered and {"uri": found.registered.uri, "new": found.registered.new},
        "unsent": list(found.unsent),
    }


def lines(found: SweepReport) -> list[str]:
    """Return what a report came to in words."""
    from rich.filesize import decimal

    from orchestrator.sweep.reporting.words import score_text

    said = [f"The report is {found.report} ({decimal(found.size_bytes)}); open it in a browser."]
    if found.status == "RUNNING":
        said.append("The sweep still runs; report it again when it has ended.")
    if found.best is None:
        return [
            *said,
            "No configuration has been trained to the end with every replica, so none is the best.",
            *found.unsent,
        ]
    scores = zip(found.metrics, found.best.scores, strict=True)
    reached = ", ".join(f"{metric} {score_text(score)}" for metric, score in scores)
    said.append(f"The best is configuration {found.best.number}: {reached}. Train it: fuseray train {found.recipe}")
    if found.registered:
        again = "" if found.registered.new else ", as before"
        said.append(f"Its model is {found.registered.uri} in MLflow's registry ({found.trial}{again}).")
    return [*said, *found.unsent]
