"""`fuseray evaluate RUN`, `fuseray export SOURCE OUT` and `fuseray import-checkpoint FORMAT FILE OUT`."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from orchestrator.config.document import Document
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import find_checkpoint_format, find_workload

if TYPE_CHECKING:
    from orchestrator.config.loading import ResolvedRecipe
    from orchestrator.report.model import EvaluatedCheckpoint
    from orchestrator.storage.location import Location
    from orchestrator.storage.run_folder import RunFolder
    from orchestrator.stream.unusable import ReasonCount
    from orchestrator.train.convert import ExportSource
    from orchestrator.train.held_out import Measurement
    from workloads.contract import Evaluation, EvaluationOptions, ForeignCheckpoint, ReportedMetrics


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--held-out", help="URI of other held-out shards than the recipe's, for example another drawing style.")
@click.option(
    "--rerank", type=click.IntRange(min=0), help="Candidates that a second stage ranks again; default: the recipe's."
)
@click.option("--gallery", type=click.IntRange(min=0), default=12, show_default=True, help="Examples to keep.")
@click.option(
    "--heat-maps",
    type=click.IntRange(min=0),
    default=6,
    show_default=True,
    help="Examples to keep with heat maps.",
)
@click.option("--again", is_flag=True, help="Evaluate even if this checkpoint was evaluated before.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def evaluate_command(as_json: bool, **arguments: Any) -> None:
    """Measure RUN's newest checkpoint on its held-out samples, as its workload does: ALBEF measures retrieval.

    RUN is a run's name below --storage, or the path or URI of its folder, or of a folder that import-checkpoint made,
    which needs --held-out; its metrics are printed alone.
    """
    evaluated = _evaluate(**arguments)
    metrics, about = dict(evaluated.evaluation.metrics), evaluated.subject
    if as_json:
        unusable = [asdict(count) for count in evaluated.unusable]
        values = {"run": evaluated.folder, "subject": about, "metrics": metrics, "unusable": unusable}
        click.echo(json.dumps(values, indent=2))
        return

    print_tables(evaluated, f"{evaluated.folder}, step {about['step']}, on {about['held_out']}")
    print_unusable(evaluated, arguments["endpoint"])


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation to show.

    Args:
        checkpoint: metrics, tables and galleries, and the held-out samples that could not be used.
        reported: what its workload reports.
        subject: what was evaluated: step, options, data.
        folder: URI of the run, or of the imported checkpoint.
    """

    checkpoint: EvaluatedCheckpoint
    reported: ReportedMetrics
    subject: dict[str, Any]
    folder: str

    @property
    def evaluation(self) -> Evaluation:
        """Metrics, tables and galleries."""
        return self.checkpoint.evaluation

    @property
    def unusable(self) -> tuple[ReasonCount, ...]:
        """Held-out samples that could not be used, by reason."""
        return self.checkpoint.unusable


def _evaluate(
    name: str,
    storage: str,
    endpoint: str | None,
    held_out: str | None,
    rerank: int | None,
    gallery: int,
    heat_maps: int,
    again: bool,
) -> Evaluated:
    """Evaluate unless it was done before."""
    from orchestrator.config.recipe import EvaluationSection
    from orchestrator.report.gather import load_evaluation, subject
    from orchestrator.storage.location import locate
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.convert import is_import
    from orchestrator.train.run_tools import run_recipe
    from workloads.contract import EvaluationOptions

    folder = locate(name, endpoint)
    if is_import(folder):
        options = EvaluationOptions(rerank=EvaluationSection().rerank if rerank is None else rerank)
        return _measure_import(folder, options, held_out, endpoint)
    run = find_run(name, storage, endpoint)
    resolved = run_recipe(run)
    section = resolved.recipe.evaluation
    data = held_out or resolved.recipe.data.held_out
    if data is None:
        raise ConfigError(f"{run.root.uri}: the recipe has no data.held_out; name the samples with --held-out URI.")
    data = locate(data, resolved.recipe.storage.endpoint).uri
    options = EvaluationOptions(section.batch_size, section.rerank if rerank is None else rerank, gallery, heat_maps)
    saved = load_evaluation(run.evaluation)
    if saved is not None and saved.subject == subject(run.newest_step(), options, data) and not again:
        reported = resolved.entry.metrics(resolved.workload)
        return Evaluated(saved.checkpoint, reported, saved.subject, run.root.uri)
    return _measure(run, resolved, options, data)


def _measure_import(
    folder: Location, options: EvaluationOptions, held_out: str | None, endpoint: str | None
) -> Evaluated:
    from orchestrator.report.gather import subject
    from orchestrator.stream.dataset.shard_folder import locate_shards
    from orchestrator.train.checkpoints.load import load_checkpoint
    from orchestrator.train.run_tools import evaluate_checkpoint, model_config

    if held_out is None:
        raise ConfigError(
            f"{folder.uri}: an imported checkpoint has no samples of its own; name some with --held-out URI."
        )
    checkpoint = load_checkpoint(folder)
    result = evaluate_checkpoint(checkpoint, options, locate_shards(held_out, endpoint))
    reported = find_workload(checkpoint.state.workload).metrics(model_config(checkpoint))
    about = subject(result.step, options, held_out)
    return Evaluated(_evaluated_checkpoint(result.measured), reported, about, folder.uri)


def _measure(run: RunFolder, resolved: ResolvedRecipe, options: EvaluationOptions, held_out: str) -> Evaluated:
    from orchestrator.report.gather import save_evaluation, subject
    from orchestrator.track.run_writer import TrackedRun
    from orchestrator.train.run_tools import evaluate_run

    file = run.read()
    tracked = TrackedRun(file.tracking_uri, file.mlflow_run_id)
    result = evaluate_run(run, resolved, options, held_out, lambda text: click.echo(text, err=True))
    checkpoint = _evaluated_checkpoint(result.measured)
    about = subject(result.step, options, held_out)
    run.evaluation.delete()
    save_evaluation(run.evaluation, checkpoint, about)
    metrics = {f"evaluation/{key}": value for key, value in checkpoint.evaluation.metrics.items()}
    tracked.add(result.step, metrics)
    return Evaluated(checkpoint, resolved.entry.metrics(resolved.workload), about, run.root.uri)


def _evaluated_checkpoint(measured: Measurement) -> EvaluatedCheckpoint:
    from orchestrator.report.gather import evaluated_checkpoint

    return evaluated_checkpoint(measured.evaluation, measured.samples, measured.unusable, measured.total)


def print_unusable(evaluated: Evaluated, endpoint: str | None) -> None:
    """Print a line about the held-out samples that could not be used, if there are any."""
    from orchestrator.stream.unusable import describe_unusable

    total = evaluated.checkpoint.samples
    if evaluated.unusable and total is not None:
        click.echo(describe_unusable(evaluated.unusable, total, str(evaluated.subject["held_out"]), endpoint))


def print_tables(evaluated: Evaluated, title: str) -> None:
    """Print the tables of an evaluation, each with its chance levels; those with the same columns as one."""
    from orchestrator.report.panels import show_tables

    console = Console(highlight=False)
    console.print(title, soft_wrap=True, markup=False)
    shown = show_tables(evaluated.evaluation, evaluated.reported)
    for (heading, columns), alike in groupby(shown, lambda entry: (entry.table.row_heading, entry.table.columns)):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", heading.lower()):
            table.add_column(column)
        for column in columns:
            table.add_column(column, justify="right")
        for part in alike:
            for row in part.rows:
                table.add_row(part.table.title, row.name, *(cell.text or "-" for cell in row.cells))
            if part.chances:
                table.add_row(part.table.title, "Chance", *(text or "-" for text in part.chances), style="dim")
        console.print(table)


OWN = "safetensors"

HOW_TO_LOAD = """\
Load it without Ray:
  from workloads.interop import load_exported
  model = load_exported({out!r})"""


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_name", default=OWN, show_default=True, help="safetensors, or a checkpoint format such as albef."
)
@click.option("--step", type=click.IntRange(min=0), help="The run's checkpoint to export; default: the newest.")
@click.option("--flat", is_flag=True, help="The model's tensors alone, not nested together with optimiser and epoch.")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when SOURCE is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def export_command(
    source: str,
    out: Path,
    format_name: str,
    step: int | None,
    flat: bool,
    storage: str,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Write the model of SOURCE to OUT.

    SOURCE is a run's name below --storage, the path or URI of its folder, or a folder that import-checkpoint made.
    safetensors writes a folder that loads without Ray; albef writes a .pth file for the official code, an imported
    checkpoint in the layout it came in, a run in that of pre-training.
    """
    if flat and format_name == OWN:
        raise ConfigError("--flat: belongs to --format albef.")

    from orchestrator.train.convert import find_source

    exported = find_source(source, storage, endpoint, step)
    _export(exported, out, format_name, flat)
    if as_json:
        click.echo(json.dumps({"checkpoint": exported.folder.uri, "format": format_name, "out": str(out)}))
        return
    click.echo(f"{exported.folder.uri} is written to {out}")
    if format_name == OWN:
        click.echo(HOW_TO_LOAD.format(out=str(out)))


def _export(source: ExportSource, out: Path, format_name: str, flat: bool) -> None:
    from orchestrator.train.convert import export_folder, export_format

    if format_name == OWN:
        export_folder(source, out)
    else:
        export_format(source, out, find_checkpoint_format(format_name), flat)


SHOWN_NAMES = 4
PARTS = {
    "used": "set the model's tensors",
    "resized": "of these, resized to the image size",
    "tied": "copies of others, left out",
    "aside": "kept with the model (not a part of it)",
    "left_over": "unknown to the layout, kept with the model",
    "copied": "the file lacks: copied from the student",
    "missing": "the file lacks: as in a new model",
}


@click.command()
@click.argument("format_name", metavar="FORMAT")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, with all names.")
def import_command(
    format_name: str, file: Path, out: str, overrides: tuple[str, ...], endpoint: str | None, as_json: bool
) -> None:
    """Turn FILE, a checkpoint of another project, into a checkpoint folder OUT to train from.

    FORMAT is albef: a .pth file of the official code, of pre-training or fine-tuned, nested or flat. KEY.PATH=VALUE
    sets recipe keys of the model, for example model.image_size=384, which resizes the position embeddings. A recipe
    starts from OUT with start.checkpoint=OUT.
    """
    values = _values(overrides)
    format_ = find_checkpoint_format(format_name)

    from orchestrator.storage.location import locate
    from orchestrator.train.convert import check_free, write_import

    target = locate(out, endpoint)
    check_free(target)
    checkpoint = format_.read(file, values)
    write_import(checkpoint, target, format_name, str(file.absolute()))
    click.echo(json.dumps(_as_json(checkpoint, target.uri)) if as_json else _table(checkpoint, target.uri))


def _values(overrides: tuple[str, ...]) -> dict[str, Any]:
    document = Document.parse("{}", "command line")
    for assignment in overrides:
        document.override(assignment)
    return document.to_dict()


def _as_json(checkpoint: ForeignCheckpoint, out: str) -> dict[str, Any]:
    return {
        "out": out,
        "workload": checkpoint.workload,
        "layout": checkpoint.metadata["layout"],
        "epochs": checkpoint.epochs,
        "optimizer": bool(checkpoint.optimizer_state),
        "config": checkpoint.config.model_dump(mode="json"),
        "report": asdict(checkpoint.report),
    }


def _table(checkpoint: ForeignCheckpoint, out: str) -> str:
    report = asdict(checkpoint.report)
    lines = [f"layout {checkpoint.metadata['layout']}, written to {out}"]
    for part, meaning in PARTS.items():
        if report[part] or part == "used":
            lines.append(f"{len(report[part]):6d}  {meaning}{_some(report[part]) if part != 'used' else ''}")
    optimizer_state = f"of {len({key.partition('/')[2] for key in checkpoint.optimizer_state})} parameters"
    lines.append(f"optimiser state: {optimizer_state if checkpoint.optimizer_state else 'none'}")
    if checkpoint.epochs is not None:
        lines.append(f"epochs trained: {checkpoint.epochs:g}")
    lines += [f"note: {note}" for note in report["notes"]]
    lines.append(f"All names are in {out}/import.json. Train from it with {shlex.quote(f'start.checkpoint={out}')}")
    return "\n".join(lines)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f": {', '.join(names[:SHOWN_NAMES])}{more}"
