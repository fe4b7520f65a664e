"""`fuseray audit RUN`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.console import printable
from orchestrator.stream.dataset.sidecar import Unreadable

if TYPE_CHECKING:
    from orchestrator.report.images import Tile
    from orchestrator.stream.ledger import Audit
    from orchestrator.stream.trace import TracedBatch, TracedSample
    from orchestrator.track.sync import Synced
    from orchestrator.train.plan import Plan
    from orchestrator.train.run_tools import TracedSpike


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def audit_command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Check that the steps of RUN that count used every sample of an epoch exactly once.

    RUN must have been trained with stream.audit=true. Exit codes: 0 the ledger is exact, 1 it is not.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.plan import audit_run
    from orchestrator.train.run_tools import run_recipe

    run = find_run(name, storage, endpoint)
    audit = audit_run(run, run_recipe(run))
    click.echo(json.dumps(asdict(audit) | {"exact": audit.exact}) if as_json else _text(audit))
    if not audit.exact:
        sys.exit(1)


def _text(audit: Audit) -> str:
    faults = {
        "micro-batches without a line": audit.missing,
        "micro-batches with other samples than the order gives": audit.wrong,
        "micro-batches done twice with different samples": audit.contradictory,
    }
    found = [f"  {len(numbers)} {fault}, first {numbers[0]}" for fault, numbers in faults.items() if numbers]
    found += [f"  {audit.repeated} samples twice in an epoch"] if audit.repeated else []
    verdict = "not exact:" if found else "exact: every sample came once in its epoch, in the order of the recipe."
    about = f"{audit.micro_batches} micro-batches, {audit.samples} samples of which {audit.skipped} were skipped"
    return "\n".join([f"{about}; the ledger is {verdict}", *found])


# `fuseray trace RUN`.


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
    from orchestrator.train.run_tools import RunCurves, trace_spikes

    found = trace_spikes(plan, RunCurves(plan.run), metric, top)
    about = {"run": plan.run.root.uri, "metric": metric}
    click.echo(json.dumps({**about, "spikes": spikes_values(found)}) if as_json else spikes_text(found, **about))


def _show_step(plan: Plan, step: int, micro_batch: int | None, images: Path | None, as_json: bool) -> None:
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


# What `fuseray trace` prints, for people and for scripts.


SHOWN = 8
"""Samples of each micro-batch that are printed when a whole step is asked for."""

LONGEST = 70
"""Letters of a caption that are printed."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run.

    Args:
        run: URI of the run's folder.
        step: the step.
        steps: steps in the run.
        metrics: its figures.
        note: why there are none, if so.
        data_sets: URIs of the run's data sets.
    """

    run: str
    step: int
    steps: int
    metrics: Mapping[str, float]
    note: str
    data_sets: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"metrics": {name: _number(value) for name, value in self.metrics.items()}}


def step_text(step: Step) -> str:
    """Return what is known of a step."""
    lines = [f"step {step.step} of {step.run}, which has {step.steps} steps"]
    if step.metrics:
        lines.append("  " + "  ".join(f"{name} {value:.6g}" for name, value in step.metrics.items()))
    lines += [f"  {step.note}"] if step.note else []
    if len(step.data_sets) > 1:
        lines += [f"  data set {number}: {uri}" for number, uri in enumerate(step.data_sets)]
    else:
        lines.append(f"  data set: {step.data_sets[0]}")
    return "\n".join(lines)


def batch_text(batch: TracedBatch, step: Step, whole: bool) -> str:
    """Return a micro-batch and its samples; all of them, or the first and those that were skipped."""
    skipped = sum(bool(sample.skipped) for sample in batch.samples)
    shown = batch.samples if whole else batch.samples[:SHOWN]
    left_out = [sample for sample in batch.samples[len(shown) :] if sample.skipped]
    lines = [f"micro-batch {batch.number}: {len(batch.samples)} samples, {skipped} skipped; {batch.ledger.value}"]
    for sample in (*shown, *left_out):
        lines += _lines(sample, step.data_sets)
    if more := len(batch.samples) - len(shown) - len(left_out):
        lines.append(f"  and {more} more; they are listed with --micro-batch {batch.place}")
    return "\n".join(lines)


def batch_values(batch: TracedBatch) -> dict[str, Any]:
    """Return a micro-batch and its samples as JSON values."""
    return {
        "number": batch.number,
        "place": batch.place,
        "ledger": batch.ledger.name.lower(),
        "samples": [_values(sample) for sample in batch.samples],
    }


def spikes_text(spikes: Sequence[TracedSpike], run: str, metric: str) -> str:
    """Return jumps of a metric, with what to look at next."""
    if not spikes:
        return f"{metric} of {run} never jumped."
    lines = [f"{metric} of {run} jumped; the largest first:"]
    for found in spikes:
        spike = found.spike
        steps = f"step {spike.step}" if spike.step == spike.last_step else f"steps {spike.step} to {spike.last_step}"
        expected = f" where {spike.expected:.6g} was expected" if math.isfinite(spike.expected) else ""
        lines.append(f"{steps}: {spike.value:.6g}{expected}, score {spike.score:.1f}")
        lines += [f"  {printable(batch.text())}" for batch in found.micro_batches]
    lines.append(f"The samples of a step: fuseray trace {run} --step {spikes[0].spike.step}")
    return "\n".join(lines)


def spikes_values(spikes: Sequence[TracedSpike]) -> list[dict[str, Any]]:
    """Return jumps of a metric as JSON values."""
    return [
        {
            **{name: _number(value) for name, value in asdict(found.spike).items()},
            "micro_batches": [asdict(batch) for batch in found.micro_batches],
        }
        for found in spikes
    ]


def _lines(sample: TracedSample, data_sets: Sequence[str]) -> list[str]:
    number = f"data set {data_sets.index(sample.data_set)}, " if len(data_sets) > 1 else ""
    place = f"{number}{sample.shard.rpartition('/')[2]} row {sample.row}, epoch {sample.epoch}"
    lines = [f"  {printable(sample.key)}  ({printable(place)})  {_caption(sample)}"]
    if isinstance(sample.content, Unreadable) and not sample.skipped:
        lines.append(f"    cannot be read: {printable(str(sample.content.fault))}")
    return lines + ([f"    skipped: {printable(sample.skipped)}"] if sample.skipped else [])


def _caption(sample: TracedSample) -> str:
    captions = () if isinstance(sample.content, Unreadable) else sample.content.captions
    if not captions:
        return ""
    first = printable(captions[0][:LONGEST]) + ("…" if len(captions[0]) > LONGEST else "")
    return first if len(captions) == 1 else f"{first} (and {len(captions) - 1} more captions)"


def _values(sample: TracedSample) -> dict[str, Any]:
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
    """Return a number as JSON can write it: those that are not finite as text."""
    return value if math.isfinite(value) else str(value)


# `fuseray sync RUN`.


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def sync_command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Publish in MLflow what it lacks of RUN: metrics, parameters, events, files and the status.

    For a run that ended while MLflow was away. Nothing is published twice. A run that is going on does this by itself.
    """
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.run_tools import sync

    run = find_run(name, storage, endpoint)
    synced = sync(run)
    click.echo(json.dumps({"run": run.root.uri} | asdict(synced)) if as_json else _synced_text(run.root.uri, synced))


def _synced_text(uri: str, synced: Synced) -> str:
    done = [f"{synced.steps} steps"] if synced.steps else []
    done += synced.files
    if synced.status != synced.status_before:
        done.append(f"the status {synced.status} (it was {synced.status_before})")
    found = f"MLflow got {', '.join(done)}." if done else f"MLflow has everything; the status is {synced.status}."
    return "\n".join([f"{uri}: {found}", *synced.messages])


# `fuseray report RUN`.


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
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
