"""`fuseray submit RECIPE --cluster FILE [key.path=value ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.finding_jobs import CLUSTER_FILE, FoundJob, open_cluster, own_register, reach_of
from orchestrator.cli.following_jobs import follow_to_end, say
from orchestrator.cli.resuming import resume_overrides
from orchestrator.spec.errors import SpecError
from orchestrator.spec.loading import ResolvedRecipe, load_recipe

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.register import Entry
    from orchestrator.cluster.jobs.submitting import Submission
    from orchestrator.cluster.launch.launcher import Launcher
    from orchestrator.spec.cluster import Cluster


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--cluster", "file", required=True, type=CLUSTER_FILE, help="The cluster's YAML file.")
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
    resolved = _for_cluster(load_recipe(recipe, (*overrides, *resume_overrides(resume))), cluster)
    submission = _submission(resolved, overrides, cluster, recipe, resume, prices)
    _preflight(resolved, cluster, prices, resume)
    _bring_up(cluster, launcher, yes)
    _submit(submission)
    entry = submission.entry
    if detach:
        _show(_outcome(entry), as_json, f"job {entry.job}: submitted")
        return
    job = follow_to_end(FoundJob(entry.job, reach_of(entry.cluster_file), entry), to_stderr=as_json)
    outcome = _outcome(entry) | {"status": job.status, "exit_code": job.code}
    _show(outcome, as_json, f"job {entry.job}: {job.status.lower()}, exit code {job.code}")
    if job.failure and not job.explained_itself:
        say(job.failure)
    sys.exit(job.code)


def _for_cluster(resolved: ResolvedRecipe, cluster: Cluster) -> ResolvedRecipe:
    """Return the recipe as it is meant on the cluster's machines, or refuse it."""
    from orchestrator.cluster.jobs.places import absolute
    from orchestrator.cluster.jobs.sharing import check_shared
    from orchestrator.spec.document import Document
    from orchestrator.spec.loading import resolve

    if cluster.kind == "local":
        values = absolute(resolved, Path.cwd())
        return resolve(Document("recipe", values, {}), values)
    for warning in check_shared(resolved, Path.cwd()):
        say(f"warning: {warning}")
    return resolved


def _submission(
    resolved: ResolvedRecipe,
    overrides: tuple[str, ...],
    cluster: Cluster,
    recipe: Path,
    resume: str | None,
    prices: Path | None,
) -> Submission:
    from orchestrator.cluster.jobs.secrets import refuse_secrets
    from orchestrator.cluster.jobs.submitting import Submission, new_entry
    from orchestrator.train.recipe_file import recipe_yaml

    refuse_secrets(overrides, resolved.values())
    return Submission(
        entry=new_entry(cluster, resolved.recipe, recipe),
        recipe=recipe_yaml(resolved),
        workload=resolved.recipe.workload,
        resume=resolved.recipe.name if resume not in (None, "auto") else None,
        prices=_read_prices(prices),
    )


def _read_prices(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: cannot be read as a table of prices ({error}).") from error


def _preflight(resolved: ResolvedRecipe, cluster: Cluster, prices: Path | None, resume: str | None) -> None:
    """Check the recipe against the cluster and show the plan with its price, before anything is started."""
    # MERGE HERE: run_preflight(resolved, cluster, PreflightOptions(prices=prices, resume=resume is not None)), shown on
    # standard error, and a SpecError when it is not ok


def _bring_up(cluster: Cluster, launcher: Launcher, yes: bool) -> None:
    """Start the cluster if it is not up; ask before that costs money."""
    if launcher.is_up():
        return
    say(f"cluster {cluster.name} is not up")
    costs = any(group.market != "owned" for group in cluster.groups)
    if costs and not yes:
        if not sys.stdin.isatty():
            raise SpecError(
                f"cluster {cluster.name}: starting it costs money; say --yes, or run `fuseray up {cluster.file}` first."
            )
        click.confirm(
            f"Start cluster {cluster.name}? Its machines cost money until `fuseray down`.", abort=True, err=True
        )
    launcher.up(say)


def _submit(submission: Submission) -> None:
    from orchestrator.cluster.jobs.submitting import submit

    entry = submission.entry
    submit(submission, reach_of(entry.cluster_file), own_register())
    say(
        f"job {entry.job} is on cluster {entry.cluster}; it goes on without this terminal\n"
        f"  run folder  {entry.run_folder}\n"
        f"  come back   fuseray logs {entry.job} -f\n"
        f"  stop        fuseray stop {entry.job}"
    )


def _outcome(entry: Entry) -> dict[str, Any]:
    return {"job": entry.job, "cluster": entry.cluster, "run": entry.run, "run_folder": entry.run_folder}


def _show(outcome: dict[str, Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(outcome) if as_json else text)
