"""`fuseray evaluate RUN`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from orchestrator.config.loading import ResolvedRecipe
    from orchestrator.storage.location import Location
    from orchestrator.storage.run_folder import RunFolder
    from workloads.contract import EvaluationOptions


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--held-out", help="URI of other held-out shards than the recipe's, for example another drawing style.")
@click.option(
    "--rerank", type=click.IntRange(min=0), help="Candidates that the fusion model ranks again; default: the recipe's."
)
@click.option(
    "--gallery", type=click.IntRange(min=0), default=12, show_default=True, help="Captions to keep with their matches."
)
@click.option(
    "--heat-maps",
    type=click.IntRange(min=0),
    default=6,
    show_default=True,
    help="Captions to keep with word heat maps.",
)
@click.option("--again", is_flag=True, help="Evaluate even if this checkpoint was evaluated before.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(as_json: bool, **arguments: Any) -> None:
    """Measure image-text retrieval of RUN's newest checkpoint on its held-out samples.

    RUN is a run's name below --storage, or the path or URI of its folder, or of a folder that import-checkpoint made,
    which needs --held-out; its figures are printed alone.
    """
    metrics, about, folder = _evaluate(**arguments)
    if as_json:
        click.echo(json.dumps({"run": folder, "subject": about, "metrics": metrics}, indent=2))
        return

    from orchestrator.cli.retrieval_table import print_table

    print_table(metrics, f"{folder}, step {about['step']}, on {about['held_out']}")


def _evaluate(
    name: str,
    storage: str,
    endpoint: str | None,
    held_out: str | None,
    rerank: int | None,
    gallery: int,
    heat_maps: int,
    again: bool,
) -> tuple[dict[str, float], dict[str, Any], str]:
    """Evaluate unless it was done before; return the figures, what they speak of, and the run's folder."""
    from orchestrator.config.errors import SpecError
    from orchestrator.config.recipe import EvaluationSection
    from orchestrator.report.gather import load_evaluation, subject
    from orchestrator.storage.location import locate
    from orchestrator.storage.run_folder import find_run
    from orchestrator.train.convert import is_import
    from orchestrator.train.run_tools import run_recipe
    from workloads.contract import EvaluationOptions

    place = locate(name, endpoint)
    if is_import(place):
        options = EvaluationOptions(rerank=EvaluationSection().rerank if rerank is None else rerank)
        return *_measure_import(place, options, held_out, endpoint), place.uri
    run = find_run(name, storage, endpoint)
    resolved = run_recipe(run)
    section = resolved.recipe.evaluation
    data = held_out or resolved.recipe.data.held_out
    if data is None:
        raise SpecError(f"{run.root.uri}: the recipe has no data.held_out; name the samples with --held-out URI.")
    options = EvaluationOptions(section.batch_size, section.rerank if rerank is None else rerank, gallery, heat_maps)
    saved = load_evaluation(run.evaluation)
    if saved is not None and saved.subject == subject(run.newest_step(), options, data) and not again:
        return dict(saved.evaluation.metrics), saved.subject, run.root.uri
    return *_measure(run, resolved, options, data), run.root.uri


def _measure_import(
    place: Location, options: EvaluationOptions, held_out: str | None, endpoint: str | None
) -> tuple[dict[str, float], dict[str, Any]]:
    from orchestrator.config.errors import SpecError
    from orchestrator.report.gather import subject
    from orchestrator.storage.location import locate
    from orchestrator.train.checkpoints.load import load_checkpoint
    from orchestrator.train.run_tools import measure_checkpoint

    if held_out is None:
        raise SpecError(
            f"{place.uri}: an imported checkpoint has no samples of its own; name some with --held-out URI."
        )
    measured = measure_checkpoint(load_checkpoint(place), options, locate(held_out, endpoint))
    return dict(measured.evaluation.metrics), subject(measured.step, options, held_out)


def _measure(
    run: RunFolder, resolved: ResolvedRecipe, options: EvaluationOptions, held_out: str
) -> tuple[dict[str, float], dict[str, Any]]:
    from orchestrator.report.gather import save_evaluation, subject
    from orchestrator.track.run_writer import TrackedRun
    from orchestrator.train.run_tools import measure

    measured = measure(run, resolved, options, held_out, lambda text: click.echo(text, err=True))
    about = subject(measured.step, options, held_out)
    run.evaluation.delete()
    save_evaluation(run.evaluation, measured.evaluation, measured.samples, about)
    file = run.read()
    figures = {f"evaluation/{key}": value for key, value in measured.evaluation.metrics.items()}
    TrackedRun(file.tracking_uri, file.mlflow_run_id).add(measured.step, figures)
    return dict(measured.evaluation.metrics), about
