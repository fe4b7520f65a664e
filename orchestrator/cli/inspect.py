"""`fuseray audit|trace|sync|report RUN`: what a run trained on, and its state in MLflow and as a page."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.console import endpoint_option, json_option, printable, run_storage_option
from orchestrator.config.commands import command_line
from orchestrator.stream.dataset.sidecar import Unreadable

if TYPE_CHECKING:
    from orchestrator.report.images import Tile
    from orchestrator.storage.location import Location
    from orchestrator.stream.ledger import LedgerAudit
    from orchestrator.stream.trace import TracedBatch, TracedSample
    from orchestrator.track.sync import SyncResult
    from orchestrator.train.plan import Plan
    from orchestrator.train.run_tools import TracedSpike


@click.command()
@click.argument("name", metavar="RUN")
@run_storage_option
@endpoint_option
@json_option
def audit_command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Check that the steps of RUN that count used every sample of an epoch exactly once.

    RUN must have been trained with stream.audit=true. Exit codes: 0 the ledger is exact, 1 it is not.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.plan import audit_run
    from orchestrator.train.run_tools import run_recipe

    run = find_run(name, storage, endpoint)
    audit = audit_run(run, run_recipe(run))
    click.echo(json.dumps(asdict(audit) | {"exact": audit.exact}) if as_json else _audit_text(audit))
    if not audit.exact:
        sys.exit(1)


def _audit_text(audit: LedgerAudit) -> str:
    faults = {
        "micro-batches without a line": audit.missing,
        "micro-batches with other samples than the order gives": audit.wrong,
        "micro-batches done twice with different samples": audit.contradictory,
    }
    lines = [f"  {len(numbers)} {fault}, first {numbers[0]}" for fault, numbers in faults.items() if numbers]
    lines += [f"  {audit.repeated} samples twice in an epoch"] if audit.repeated else []
    result = "not exact:" if lines else "exact: every sample came once in its epoch, in the order of the recipe."
    about = f"{audit.micro_batches} micro-batches, {audit.samples} samples of which {audit.skipped} were skipped"
    return "\n".join([f"{about}; the ledger is {result}", *lines])


MAX_TILES = 192
"""Images of a contact sheet: 24 rows of 8."""


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--step", type=click.IntRange(min=0), help="The step, from 0 as in MLflow.")
@click.option("--micro-batch", type=click.IntRange(min=0), help="Only this one of the step's micro-batches, from 0.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Write a contact sheet (.png) of the samples here, at most {MAX_TILES}.",
)
@click.option("--spikes", is_flag=True, help="List the steps at which a metric jumped, the largest jump first.")
@click.option("--metric", help="The metric to look at with --spikes.  [default: loss]")
@click.option("--top", type=click.IntRange(min=1), help="How many jumps to list.  [default: 10]")
@run_storage_option
@endpoint_option
@json_option
def trace_command(
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
    """List the samples of a step of RUN, or with --spikes the steps to look at.

    Works from the order of the samples alone, on any machine that reaches the data, and compares RUN's ledger if it
    has one. Exit codes: 0 done, 1 the ledger has other samples than the order.
    """
    _check_options(step, spikes, step_options=(micro_batch, images), spike_options=(metric, top))

    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.plan import plan_of_run
    from orchestrator.train.run_tools import run_recipe

    run = find_run(name, storage, endpoint)
    plan = plan_of_run(run, run_recipe(run))
    if step is None:
        _show_spikes(plan, metric or "loss", top or 10, as_json)
    else:
        _show_step(plan, step, micro_batch, images, as_json)


def _check_options(
    step: int | None, spikes: bool, step_options: tuple[object, ...], spike_options: tuple[object, ...]
) -> None:
    if (step is None) != spikes:
        raise click.UsageError("name a step with --step, or ask for the steps to look at with --spikes.")
    if spikes and any(option is not None for option in step_options):
        raise click.UsageError("--micro-batch and --images are about one step; name it with --step.")
    if not spikes and any(option is not None for option in spike_options):
        raise click.UsageError("--metric and --top belong to --spikes.")


def _show_spikes(plan: Plan, metric: str, top: int, as_json: bool) -> None:
    from orchestrator.train.run_tools import RunCurves, trace_spikes

    spikes = trace_spikes(plan, RunCurves(plan.run), metric, top)
    if as_json:
        about = {"run": plan.run.root.uri, "metric": metric}
        click.echo(json.dumps({**about, "spikes": spikes_values(spikes)}))
    else:
        click.echo(spikes_text(spikes, plan.run.root, metric))


def _show_step(plan: Plan, step: int, micro_batch: int | None, images: Path | None, as_json: bool) -> None:
    from orchestrator.stream.trace import LedgerStatus
    from orchestrator.train.run_tools import step_metrics, trace_step

    batches = trace_step(plan, step, micro_batch)
    metrics, note = step_metrics(plan.run, step)
    data_sets = tuple(data_set.folder.uri for data_set in plan.data.sets)
    about = StepSummary(plan.run.root.uri, step, plan.steps, metrics, note, data_sets)
    if not as_json:
        click.echo(step_text(about))
    values, tiles, agrees = [], [], True
    per_batch = MAX_TILES if micro_batch is not None else max(1, MAX_TILES // plan.recipe.batch.micro_batches)
    for batch in batches:
        agrees &= batch.ledger is not LedgerStatus.DIFFERS
        tiles += _tiles(batch, per_batch) if images else []
        if as_json:
            values.append(batch_values(batch))
        else:
            click.echo(batch_text(batch, about, whole=micro_batch is not None))
    sheet = _write_contact_sheet(images, tiles[:MAX_TILES]) if images else {}
    if as_json:
        click.echo(json.dumps({**about.values(), "micro_batches": values, **sheet}))
    elif sheet:
        click.echo(f"The contact sheet is {images}, with {sheet['images']} images.")
    if not agrees:
        audit = command_line("audit", plan.run.root.uri, endpoint=plan.run.root.endpoint)
        click.echo(f"The ledger has other samples than the order gives; `{audit}` checks the whole run.", err=True)
        sys.exit(1)


def _tiles(batch: TracedBatch, most: int) -> list[Tile]:
    from orchestrator.report.images import picture_of, tile_of

    return [
        tile_of(sample.content, picture_of(sample.content), f"skipped: {sample.skipped}" if sample.skipped else "")
        for sample in batch.samples[:most]
    ]


def _write_contact_sheet(path: Path, tiles: list[Tile]) -> dict[str, str | int]:
    from orchestrator.config.errors import ConfigError
    from orchestrator.report.images import contact_sheet
    from orchestrator.storage.location import locate

    if not tiles:
        raise ConfigError("--images: there are no samples; the end of the run left these micro-batches empty.")
    locate(str(path)).write(contact_sheet(tiles))
    return {"contact_sheet": str(path), "images": len(tiles)}


SAMPLES_SHOWN = 8
"""Samples of each micro-batch that are printed when a whole step is asked for."""

CAPTION_LENGTH = 70
"""Letters of a caption that are printed."""


@dataclass(frozen=True, slots=True)
class StepSummary:
    """A step of a run.

    Args:
        run: URI of the run's folder.
        step: the step.
        steps: steps in the run.
        metrics: its metrics.
        note: why there are none; empty otherwise.
        data_sets: URIs of the run's data sets.
    """

    run: str
    step: int
    steps: int
    metrics: Mapping[str, float]
    note: str
    data_sets: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self) | {"metrics": {name: _number(value) for name, value in self.metrics.items()}}


def step_text(step: StepSummary) -> str:
    """Return a step's metrics and data sets as text."""
    lines = [f"step {step.step} of {step.run}, which has {step.steps} steps"]
    if step.metrics:
        lines.append("  " + "  ".join(f"{name} {value:.6g}" for name, value in step.metrics.items()))
    lines += [f"  {step.note}"] if step.note else []
    if len(step.data_sets) > 1:
        lines += [f"  data set {number}: {uri}" for number, uri in enumerate(step.data_sets)]
    else:
        lines.append(f"  data set: {step.data_sets[0]}")
    return "\n".join(lines)


def batch_text(batch: TracedBatch, step: StepSummary, whole: bool) -> str:
    """Return a micro-batch and its samples as text: all of them, or the first and the skipped ones."""
    skipped = sum(bool(sample.skipped) for sample in batch.samples)
    shown = batch.samples if whole else batch.samples[:SAMPLES_SHOWN]
    left_out = [sample for sample in batch.samples[len(shown) :] if sample.skipped]
    lines = [f"micro-batch {batch.number}: {len(batch.samples)} samples, {skipped} skipped; {batch.ledger.value}"]
    for sample in (*shown, *left_out):
        lines += _sample_lines(sample, step.data_sets)
    if more := len(batch.samples) - len(shown) - len(left_out):
        lines.append(f"  and {more} more; they are listed with --micro-batch {batch.place}")
    return "\n".join(lines)


def batch_values(batch: TracedBatch) -> dict[str, Any]:
    """Return a micro-batch and its samples as JSON values."""
    return {
        "number": batch.number,
        "place": batch.place,
        "ledger": batch.ledger.name.lower(),
        "samples": [_sample_values(sample) for sample in batch.samples],
    }


def spikes_text(spikes: Sequence[TracedSpike], run: Location, metric: str) -> str:
    """Return spikes of a metric as text, with the command to run next."""
    if not spikes:
        return f"{metric} of {run.uri} never jumped."
    lines = [f"{metric} of {run.uri} jumped; the largest first:"]
    for traced in spikes:
        spike = traced.spike
        steps = f"step {spike.step}" if spike.step == spike.last_step else f"steps {spike.step} to {spike.last_step}"
        expected = f" where {spike.expected:.6g} was expected" if math.isfinite(spike.expected) else ""
        lines.append(f"{steps}: {spike.value:.6g}{expected}, score {spike.score:.1f}")
        lines += [f"  {printable(batch.text())}" for batch in traced.micro_batches]
    command = command_line("trace", run.uri, step=spikes[0].spike.step, endpoint=run.endpoint)
    lines.append(f"The samples of a step: {command}")
    return "\n".join(lines)


def spikes_values(spikes: Sequence[TracedSpike]) -> list[dict[str, Any]]:
    """Return spikes of a metric as plain JSON values."""
    return [
        {
            **{name: _number(value) for name, value in asdict(traced.spike).items()},
            "micro_batches": [asdict(batch) for batch in traced.micro_batches],
        }
        for traced in spikes
    ]


def _sample_lines(sample: TracedSample, data_sets: Sequence[str]) -> list[str]:
    number = f"data set {data_sets.index(sample.data_set)}, " if len(data_sets) > 1 else ""
    source = f"{number}{sample.shard.rpartition('/')[2]} row {sample.row}, epoch {sample.epoch}"
    lines = [f"  {printable(sample.key)}  ({printable(source)})  {_caption(sample)}"]
    if isinstance(sample.content, Unreadable) and not sample.skipped:
        lines.append(f"    cannot be read: {printable(str(sample.content.fault))}")
    return lines + ([f"    skipped: {printable(sample.skipped)}"] if sample.skipped else [])


def _caption(sample: TracedSample) -> str:
    captions = () if isinstance(sample.content, Unreadable) else sample.content.captions
    if not captions:
        return ""
    first = printable(captions[0][:CAPTION_LENGTH]) + ("…" if len(captions[0]) > CAPTION_LENGTH else "")
    return first if len(captions) == 1 else f"{first} (and {len(captions) - 1} more captions)"


def _sample_values(sample: TracedSample) -> dict[str, Any]:
    content = sample.content
    return {
        "key": sample.key,
        "data_set": sample.data_set,
        "epoch": sample.epoch,
        "shard": sample.shard,
        "row": sample.row,
        "position": sample.position,
        "captions": [] if isinstance(content, Unreadable) else list(content.captions),
        "skipped": sample.skipped or None,
        "fault": str(content.fault) if isinstance(content, Unreadable) else None,
    }


def _number(value: float) -> float | str:
    """Return a number for JSON; non-finite ones as text."""
    return value if math.isfinite(value) else str(value)


@click.command()
@click.argument("name", metavar="RUN")
@run_storage_option
@endpoint_option
@json_option
def sync_command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Publish in MLflow what it lacks of RUN: metrics, parameters, events, files and the status.

    For a run that ended while MLflow was away. Nothing is published twice. A running run does this by itself.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.run_tools import sync

    run = find_run(name, storage, endpoint)
    synced = sync(run)
    click.echo(json.dumps({"run": run.root.uri} | asdict(synced)) if as_json else _synced_text(run.root.uri, synced))


def _synced_text(uri: str, synced: SyncResult) -> str:
    sent = [f"{synced.steps} steps"] if synced.steps else []
    sent += synced.files
    if synced.status != synced.status_before:
        sent.append(f"the status {synced.status} (it was {synced.status_before})")
    result = f"MLflow got {', '.join(sent)}." if sent else f"MLflow has everything; the status is {synced.status}."
    return "\n".join([f"{uri}: {result}", *synced.messages])


@click.command()
@click.argument("name", metavar="RUN")
@run_storage_option
@endpoint_option
@json_option
def report_command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Write RUN's report, one self-contained HTML page, into the run's folder and its MLflow run."""
    from rich.filesize import decimal

    from orchestrator.report.gather import gather
    from orchestrator.report.page import render
    from orchestrator.storage.run_folder import find_run
    from orchestrator.track.run_writer import TrackedRun
    from orchestrator.train.run_tools import run_recipe

    run = find_run(name, storage, endpoint)
    resolved = run_recipe(run)
    page = render(gather(run, resolved.entry.metrics(resolved.workload)))
    run.report.write(page.encode())
    file = run.read()
    TrackedRun(file.tracking_uri, file.mlflow_run_id).text(page, "report.html")
    size = len(page.encode())
    click.echo(
        json.dumps({"report": run.report.uri, "bytes": size})
        if as_json
        else f"The report is {run.report.uri} ({decimal(size)}); open it in a browser."
    )
