"""`fuseray submit RECIPE --cluster FILE [key.path=value ...]`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.cluster_argument import cluster_file
from orchestrator.cli.finding_jobs import open_cluster
from orchestrator.cli.resuming import resume_overrides
from orchestrator.cli.sending_jobs import Look, Sending, follow_job, on_cluster, price_text, refuse_errors
from orchestrator.config.loading import ResolvedRecipe, load_recipe

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.submit import Submission
    from orchestrator.config.cluster import Cluster


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--cluster",
    "file",
    required=True,
    type=cluster_file,
    help="The cluster's YAML file, or NAME for clusters/NAME.yaml.",
)
@click.option(
    "--resume", metavar="RUN", help="Continue this run, which must be there, instead of starting the recipe's."
)
@click.option("--detach", is_flag=True, help="Leave as soon as the job is submitted.")
@click.option("--yes", is_flag=True, help="Start machines that cost money without asking.")
@click.option("--prices", type=click.Path(path_type=Path), help="A table of prices to use instead of Fuseray's own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for scripts; the log goes to stderr.")
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    file: Path,
    resume: str | None,
    detach: bool,
    yes: bool,
    prices: Path | None,
    as_json: bool,
) -> None:
    """Train RECIPE on a cluster, with single values overridden by KEY.PATH=VALUE.

    The job goes on when this command ends or this machine is switched off. A run of the recipe's name that is there
    already is continued. Exit codes are those of `fuseray train` on the cluster; 130 also when the job was stopped, or
    when Ctrl-C ended the watching alone.
    """
    cluster, launcher = open_cluster(file)
    resolved = on_cluster(load_recipe(recipe, (*overrides, *resume_overrides(resume))), cluster)
    sending = Sending(
        cluster=cluster,
        launcher=launcher,
        submission=_submission(resolved, overrides, cluster, recipe, resume, prices),
        check=partial(_check, resolved, cluster, prices, resume is not None),
    )
    sending.send(yes)
    follow_job(sending.submission.entry, detach, as_json)


def _check(resolved: ResolvedRecipe, cluster: Cluster, prices: Path | None, resume: bool, look: Look) -> None:
    from orchestrator.cli.preflight import PreflightOptions, run_preflight, show_preflight

    preflight = run_preflight(resolved, cluster, PreflightOptions(prices=prices, resume=resume, from_cluster=look))
    with redirect_stdout(sys.stderr):
        show_preflight(preflight, as_json=False)
    refuse_errors(preflight.ok)


def _submission(
    resolved: ResolvedRecipe,
    overrides: tuple[str, ...],
    cluster: Cluster,
    recipe: Path,
    resume: str | None,
    prices: Path | None,
) -> Submission:
    from orchestrator.cluster.jobs.portability import refuse_secrets
    from orchestrator.cluster.jobs.submit import Submission, new_entry
    from orchestrator.config.cluster import growth_variable
    from orchestrator.train.plan import recipe_yaml

    refuse_secrets(overrides, resolved.values())
    return Submission(
        entry=new_entry(cluster, resolved.recipe, recipe),
        recipe=recipe_yaml(resolved),
        workload=resolved.recipe.workload,
        resume=resolved.recipe.name if resume not in (None, "auto") else None,
        prices=price_text(prices),
        machines=growth_variable(cluster.groups),
    )
