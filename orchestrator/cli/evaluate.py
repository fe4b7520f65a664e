"""`fuseray evaluate RUN [KEY.PATH=VALUE ...]`: measures a model here, in actors on Ray, or as a job on a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from orchestrator.cli.console import EvaluationProgress
from orchestrator.cli.files import cluster_file
from orchestrator.config.document import Document
from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.loading import EVALUATION, RecipeParts, ResolvedRecipe, find_workload, resolve, validate
from orchestrator.config.recipe import EvaluationSection, ScaleSection

if TYPE_CHECKING:
    from orchestrator.evaluate.pool import PoolOptions
    from orchestrator.report.model import EvaluatedCheckpoint
    from orchestrator.storage.location import Location
    from orchestrator.storage.run_folder import RunFolder
    from orchestrator.stream.unusable import ReasonCount
    from orchestrator.train.evaluation.of_checkpoint import EvaluationResult, HowToMeasure
    from orchestrator.train.evaluation.places import Device
    from workloads.contract import Evaluation, EvaluationOptions, ReportedMetrics, WorkloadEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks for.

    Args:
        name: the run, or the folder of an imported checkpoint.
        overrides: values of keys.
        storage: where runs are, when the name is one.
        endpoint: address of an S3-compatible server.
        held_out: URI of other samples than the recipe's.
        step: of the run's checkpoint; None for its newest.
        workers: actors to measure with; None for none, or on a cluster as many as it has places for.
        device: what the actors run on.
        address: of Ray.
        again: whether to measure what was measured before.
        cluster: file of the cluster that it is submitted to; None to measure from here.
        detach: whether to leave once it is submitted.
        yes: whether machines that cost money may be started without asking.
        quiet: whether to show no progress.
    """

    name: str
    overrides: tuple[str, ...]
    storage: str
    endpoint: str | None
    held_out: str | None
    step: int | None
    workers: int | None
    device: Device
    address: str
    again: bool
    cluster: Path | None
    detach: bool
    yes: bool
    quiet: bool

    def for_cluster(self, held_out: str) -> tuple[str, ...]:
        """Return the arguments of this command on the cluster, without the run."""
        options: dict[str, object] = {
            "--endpoint": self.endpoint,
            "--held-out": held_out if self.held_out is not None else None,
            "--step": self.step,
            "--workers": self.workers,
            "--device": self.device,
        }
        given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        return (*given, *(["--again"] if self.again else []), *self.overrides)


@click.command()
@click.argument("name", metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--held-out", help="URI of other held-out shards than the recipe's, for example another drawing style.")
@click.option("--step", type=click.IntRange(min=1), help="Steps of the checkpoint; default: the newest.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Share the work out to so many actors on Ray; default: none, or all."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "gpu", "cpu"]),
    default="auto",
    show_default=True,
    help="What each actor gets: a GPU if there are some, a GPU, or CPUs alone.",
)
@click.option("--address", default="local", show_default=True, help="Ray's address; local starts Ray on this machine.")
@click.option(
    "--cluster",
    type=cluster_file,
    help="Evaluate there, as a job: a YAML file, or a name (see `fuseray clusters`).",
)
@click.option("--detach", is_flag=True, help="With --cluster: leave as soon as the job is submitted.")
@click.option("--yes", is_flag=True, help="With --cluster: start machines that cost money without asking.")
@click.option("--again", is_flag=True, help="Evaluate even if this checkpoint was evaluated before.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(as_json: bool, **arguments: Any) -> None:
    """Measure RUN's newest checkpoint, or that of --step, on its held-out samples, as its workload does.

    RUN is a run's name below --storage, or the path or URI of its folder, or of a folder that import-checkpoint made,
    which needs --held-out; its metrics are printed alone. KEY.PATH=VALUE sets keys of the recipe's section evaluation,
    for example evaluation.batch_size=32. What is finished when the command is stopped is not done again.
    """
    request = Request(**arguments, quiet=as_json)
    try:
        evaluated = _evaluate(request)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on where this one was", err=True)
        raise
    if evaluated is None:
        return
    if as_json:
        click.echo(json.dumps(_as_json(evaluated), indent=2))
        return
    about = evaluated.subject
    print_tables(evaluated, f"{evaluated.folder}, step {about['step']}, on {about['held_out']}")
    print_unusable(evaluated, request.endpoint)


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


def _as_json(evaluated: Evaluated) -> dict[str, Any]:
    return {
        "run": evaluated.folder,
        "subject": evaluated.subject,
        "metrics": dict(evaluated.evaluation.metrics),
        "unusable": [asdict(count) for count in evaluated.unusable],
    }


def _evaluate(request: Request) -> Evaluated | None:
    """Evaluate unless it was done before; None when that goes on as a job."""
    from orchestrator.report.gather import load_evaluation, subject
    from orchestrator.storage.location import locate
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.convert import is_import

    folder = locate(request.name, request.endpoint)
    if is_import(folder):
        if request.cluster is not None:
            raise ConfigError(f"{folder.uri}: an imported checkpoint is evaluated here; leave out --cluster.")
        if request.step is not None:
            raise ConfigError(f"{folder.uri}: an imported checkpoint is one alone; leave out --step.")
        return _measure_import(folder, request)
    run = find_run(request.name, request.storage, request.endpoint)
    resolved = overridden_recipe(run, request.overrides)
    data = request.held_out or resolved.recipe.data.held_out
    if data is None:
        raise ConfigError(f"{run.root.uri}: the recipe has no data.held_out; name the samples with --held-out URI.")
    data = locate(data, resolved.recipe.storage.endpoint).uri
    saved = load_evaluation(run.evaluation)
    about = subject(request.step or run.newest_step(), resolved.evaluation, data)
    if saved is not None and saved.subject == about and not request.again:
        reported = resolved.entry.metrics(resolved.workload)
        return Evaluated(saved.checkpoint, reported, saved.subject, run.root.uri)
    if request.cluster is None:
        return _measure(run, resolved, data, request)
    return _measure_on_cluster(run, resolved, data, request, request.cluster)


def _measure_on_cluster(
    run: RunFolder, resolved: ResolvedRecipe, held_out: str, request: Request, cluster: Path
) -> Evaluated | None:
    from orchestrator.cli.cluster.evaluate import evaluate_on_cluster
    from orchestrator.report.gather import load_evaluation

    arguments = request.for_cluster(held_out)
    if not evaluate_on_cluster(run, resolved, arguments, cluster, request.detach, request.yes):
        return None
    saved = load_evaluation(run.evaluation)
    if saved is None:
        raise ConfigError(f"{run.evaluation.uri}: the job left no evaluation here; see its log.")
    return Evaluated(saved.checkpoint, resolved.entry.metrics(resolved.workload), saved.subject, run.root.uri)


def overridden_recipe(run: RunFolder, overrides: Sequence[str]) -> ResolvedRecipe:
    """Return a run's recipe with other values in its section `evaluation`.

    Raises:
        ConfigError: a value is wrong, or its key belongs to another section.
    """
    from orchestrator.train.run_tools import run_recipe

    resolved = run_recipe(run)
    document = Document("command line", resolved.values(), {})
    for assignment in overrides:
        _refuse_other_section(assignment)
        document.override(assignment)
    return replace(resolve(document, document.to_dict()), notes=resolved.notes) if overrides else resolved


def _refuse_other_section(assignment: str) -> None:
    if not assignment.startswith(f"{EVALUATION}."):
        raise ConfigError(
            f"{assignment!r}: only keys of the section {EVALUATION} may be set here: {EVALUATION}.KEY=VALUE."
        )


def _options_of_import(entry: WorkloadEntry, overrides: Sequence[str]) -> tuple[EvaluationSection, EvaluationOptions]:
    """Return the options for an imported checkpoint, which has no recipe."""
    document = Document("command line", {EVALUATION: {}}, {})
    for assignment in overrides:
        _refuse_other_section(assignment)
        document.override(assignment)
    parts = RecipeParts.of(document.to_dict(), entry)
    ours = validate(EvaluationSection, parts.recipe[EVALUATION], document, (EVALUATION,))
    theirs = validate(entry.evaluation_type, parts.evaluation, document, (EVALUATION,))
    findings = [
        *parts.unknown_findings(document),
        *(one for part in (ours, theirs) if isinstance(part, list) for one in part),
    ]
    if findings or isinstance(ours, list) or isinstance(theirs, list):
        raise RecipeError(findings)
    return ours, theirs


def _measure_import(folder: Location, request: Request) -> Evaluated:
    from orchestrator.report.gather import subject
    from orchestrator.storage.local_files import state_home
    from orchestrator.stream.dataset.shard_folder import locate_shards
    from orchestrator.train.checkpoints.load import load_state, model_config
    from orchestrator.train.evaluation.of_checkpoint import HowToMeasure, evaluate_checkpoint

    if request.held_out is None:
        raise ConfigError(
            f"{folder.uri}: an imported checkpoint has no samples of its own; name some with --held-out URI."
        )
    state = load_state(folder)
    entry = find_workload(state.workload)
    section, options = _options_of_import(entry, request.overrides)
    how = HowToMeasure(
        options,
        locate_shards(request.held_out, request.endpoint),
        memory_mb=section.memory_mb,
        kept=folder / "evaluation-work",
    )
    with _measuring(how, section, ScaleSection(), request, state_home() / "evaluate") as here:
        result = evaluate_checkpoint(folder, here)
    about = subject(result.step, options, request.held_out)
    return Evaluated(_evaluated_checkpoint(result), entry.metrics(model_config(state)), about, folder.uri)


def _measure(run: RunFolder, resolved: ResolvedRecipe, held_out: str, request: Request) -> Evaluated:
    from orchestrator.report.gather import save_evaluation, subject
    from orchestrator.stream.dataset.shard_folder import locate_shards
    from orchestrator.track.run_writer import TrackedRun
    from orchestrator.train.convert import find_source
    from orchestrator.train.driver import log_folder_of
    from orchestrator.train.evaluation.of_checkpoint import HowToMeasure, evaluate_checkpoint, evaluate_newest

    file, recipe = run.read(), resolved.recipe
    chosen = find_source(request.name, request.storage, request.endpoint, request.step) if request.step else None
    tracked = TrackedRun(file.tracking_uri, file.mlflow_run_id)
    how = HowToMeasure(
        resolved.evaluation,
        locate_shards(held_out, recipe.storage.endpoint),
        memory_mb=recipe.evaluation.memory_mb,
        workload=recipe.workload,
        kept=run.evaluation_work,
        log=lambda text: click.echo(text, err=True),
    )
    with _measuring(how, recipe.evaluation, recipe.scale, request, log_folder_of(run.root, recipe.name)) as here:
        result = evaluate_newest(run, here) if chosen is None else evaluate_checkpoint(chosen.folder, here)
    checkpoint = _evaluated_checkpoint(result)
    about = subject(result.step, resolved.evaluation, held_out)
    run.evaluation.delete()
    save_evaluation(run.evaluation, checkpoint, about)
    metrics = {f"evaluation/{key}": value for key, value in checkpoint.evaluation.metrics.items()}
    tracked.add(result.step, metrics)
    return Evaluated(checkpoint, resolved.entry.metrics(resolved.workload), about, run.root.uri)


@contextmanager
def _measuring(
    how: HowToMeasure, section: EvaluationSection, scale: ScaleSection, request: Request, logs: Any
) -> Iterator[HowToMeasure]:
    """Give an evaluation its progress line and, where actors do it, a session of Ray with room for them."""
    from orchestrator.train.evaluation.places import actor_session

    session: AbstractContextManager[PoolOptions | None] = nullcontext(None)
    if request.workers is not None or request.address != "local":
        here = scale.model_copy(update={"address": request.address})
        session = actor_session(here, section.cpus, request.workers, request.device, logs / "ray.log")
    with EvaluationProgress(request.quiet) as progress, session as pool:
        yield replace(how, pool=pool, progress=progress)


def _evaluated_checkpoint(result: EvaluationResult) -> EvaluatedCheckpoint:
    from orchestrator.report.gather import evaluated_checkpoint

    measured = result.measured
    return evaluated_checkpoint(measured.evaluation, measured.images(), measured.unusable, measured.held_out.total)


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
