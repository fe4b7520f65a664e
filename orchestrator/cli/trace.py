"""`fuseray trace RUN`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestrator.report.images import Tile
    from orchestrator.stream.trace import TracedBatch
    from orchestrator.train.plan import Plan

MOST_TILES = 192
"""Images of a contact sheet: 24 rows of 8."""


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--step", type=click.IntRange(min=0), help="The step, from 0 as in MLflow.")
@click.option("--micro-batch", type=click.IntRange(min=0), help="Only this one of the step's micro-batches, from 0.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Write a contact sheet (.png) of the samples here, at most {MOST_TILES}.",
)
@click.option("--spikes", is_flag=True, help="List the steps at which a metric jumped, the largest jump first.")
@click.option("--metric", help="The metric to look at with --spikes.  [default: loss]")
@click.option("--top", type=click.IntRange(min=1), help="How many jumps to list.  [default: 10]")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(
    name: str,
    step: int | None,
    micro_batch: int | None,
    images: Path | None,
    spikes: bool,
    metric: str | None,
    top: int | None,
    storage: str,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """List the samples that a step of RUN was made of, or with --spikes the steps to look at.

    Works from the order of the samples alone, on any machine that reaches the data; a ledger, if RUN keeps one, is
    compared. Exit codes: 0 done, 1 the ledger has other samples than the order.
    """
    _check(step, spikes, step_options=(micro_batch, images), spike_options=(metric, top))

    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.plan import reopened
    from orchestrator.train.run_tools import run_recipe

    run = find_run(name, storage, endpoint)
    plan = reopened(run, run_recipe(run))
    if step is None:
        _show_spikes(plan, metric or "loss", top or 10, as_json)
    else:
        _show_step(plan, step, micro_batch, images, as_json)


def _check(step: int | None, spikes: bool, step_options: tuple[object, ...], spike_options: tuple[object, ...]) -> None:
    if (step is None) != spikes:
        raise click.UsageError("name a step with --step, or ask for the steps to look at with --spikes.")
    if spikes and any(option is not None for option in step_options):
        raise click.UsageError("--micro-batch and --images are about one step; name it with --step.")
    if not spikes and any(option is not None for option in spike_options):
        raise click.UsageError("--metric and --top belong to --spikes.")


def _show_spikes(plan: Plan, metric: str, top: int, as_json: bool) -> None:
    from orchestrator.cli.trace_text import spikes_text, spikes_values
    from orchestrator.train.run_tools import RunCurves, trace_spikes

    found = trace_spikes(plan, RunCurves(plan.run), metric, top)
    about = {"run": plan.run.root.uri, "metric": metric}
    click.echo(json.dumps({**about, "spikes": spikes_values(found)}) if as_json else spikes_text(found, **about))


def _show_step(plan: Plan, step: int, micro_batch: int | None, images: Path | None, as_json: bool) -> None:
    from orchestrator.cli.trace_text import Step, batch_text, batch_values, step_text
    from orchestrator.stream.trace import LedgerSays
    from orchestrator.train.run_tools import step_metrics, trace_step

    batches = trace_step(plan, step, micro_batch)
    metrics, note = step_metrics(plan.run, step)
    about = Step(plan.run.root.uri, step, plan.steps, metrics, note, tuple(one.folder.uri for one in plan.data.sets))
    if not as_json:
        click.echo(step_text(about))
    shown, tiles, agrees = [], [], True
    per_batch = MOST_TILES if micro_batch is not None else max(1, MOST_TILES // plan.recipe.batch.micro_batches)
    for batch in batches:
        agrees &= batch.ledger is not LedgerSays.DIFFERS
        tiles += _tiles(batch, per_batch) if images else []
        if as_json:
            shown.append(batch_values(batch))
        else:
            click.echo(batch_text(batch, about, whole=micro_batch is not None))
    sheet = _write(images, tiles[:MOST_TILES]) if images else {}
    if as_json:
        click.echo(json.dumps({**about.values(), "micro_batches": shown, **sheet}))
    elif sheet:
        click.echo(f"The contact sheet is {images}, with {sheet['images']} images.")
    if not agrees:
        click.echo("The ledger has other samples than the order gives; `fuseray audit` checks the whole run.", err=True)
        sys.exit(1)


def _tiles(batch: TracedBatch, most: int) -> list[Tile]:
    from orchestrator.report.images import picture_of, tile_of

    return [
        tile_of(one.content, picture_of(one.content), f"skipped: {one.skipped}" if one.skipped else "")
        for one in batch.samples[:most]
    ]


def _write(path: Path, tiles: list[Tile]) -> dict[str, str | int]:
    from orchestrator.config.errors import SpecError
    from orchestrator.report.images import contact_sheet
    from orchestrator.storage.location import locate

    if not tiles:
        raise SpecError("--images: there are no samples; the end of the run left these micro-batches empty.")
    locate(str(path)).write(contact_sheet(tiles))
    return {"contact_sheet": str(path), "images": len(tiles)}
