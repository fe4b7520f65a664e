"""`fuseray plan RECIPE --cluster CLUSTER [key.path=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.cluster_argument import cluster_file
from orchestrator.cli.preflight import MFU, Preflight, PreflightOptions, run_here, run_preflight, show_preflight
from orchestrator.config.document import read_extended
from orchestrator.config.loading import ResolvedRecipe, load_recipe

PATH = click.Path(path_type=Path)
POSITIVE = click.FloatRange(min=0, min_open=True)
SHARE = click.FloatRange(min=0, max=1, min_open=True)


@click.command()
@click.argument("recipe", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--cluster", type=cluster_file, metavar="CLUSTER", help="The cluster's YAML, or NAME for clusters/NAME.yaml."
)
@click.option("--here", is_flag=True, help="Look at this machine as one of the cluster's; needs no --cluster.")
@click.option("--samples", type=click.IntRange(min=1), help="Plan as if the training data had so many samples.")
@click.option("--mfu", type=SHARE, default=MFU, show_default=True, help="Share of a GPU's peak that training reaches.")
@click.option("--samples-per-s", type=POSITIVE, help="Samples per second and worker, as measured; instead of --mfu.")
@click.option("--prices", type=PATH, metavar="FILE", help="Prices of your own, over the project's table.")
@click.option("--resume", is_flag=True, help="Plan the rest of the recipe's own run, at the speed that its log shows.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    cluster: Path | None,
    here: bool,
    samples: int | None,
    mfu: float,
    samples_per_s: float | None,
    prices: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Say what RECIPE will need of a cluster, what it costs, and what is in its way. Nothing is started.

    Exit code 2 when something has to be mended first, otherwise 0.
    """
    if not here and cluster is None:
        raise click.UsageError("name the cluster with --cluster FILE, or look at this machine alone with --here")
    resolved = _recipe(recipe, overrides, samples)
    options = PreflightOptions(
        mfu=mfu, samples_per_s=samples_per_s, samples=samples, prices=prices, resume=resume, quiet=as_json
    )
    preflight = _preflight(resolved, None if here else cluster, options)
    show_preflight(preflight, as_json)
    if not preflight.ok:
        sys.exit(2)


def _preflight(resolved: ResolvedRecipe, cluster: Path | None, options: PreflightOptions) -> Preflight:
    if cluster is None:
        return run_here(resolved, options)

    from orchestrator.cluster.files.read import read_cluster

    return run_preflight(resolved, read_cluster(cluster), options)


def _recipe(path: Path, overrides: tuple[str, ...], samples: int | None) -> ResolvedRecipe:
    """Return the recipe; for a plan with a given number of samples it need not name any data."""
    if samples is None or _names_data(path, overrides):
        return load_recipe(path, overrides)

    from orchestrator.cluster.preflight.places import UNNAMED

    return load_recipe(path, (*overrides, f"data.train={UNNAMED}"))


def _names_data(path: Path, overrides: tuple[str, ...]) -> bool:
    document = read_extended(path)
    for assignment in overrides:
        document.override(assignment)
    data = document.plain().get("data")
    return isinstance(data, dict) and bool(data.get("train") or data.get("mix"))
