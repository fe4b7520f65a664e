"""`fuseray submit RECIPE --cluster FILE [key.path=value ...]`: check, plan, start the cluster, submit, follow."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.cluster.job_access import JobRef, connect_to, follow_to_end, log, open_cluster, own_register
from orchestrator.cli.cluster.lifecycle import confirm
from orchestrator.cli.files import cluster_file, load_and_say, recipe_file
from orchestrator.cli.train import resume_overrides
from orchestrator.config.commands import command_line
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import ResolvedRecipe

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.history import JobRecord
    from orchestrator.cluster.jobs.submit import Submission
    from orchestrator.cluster.launch.launcher import Launcher
    from orchestrator.config.cluster import Cluster


@click.command()
@click.argument("recipe", type=recipe_file)
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--cluster",
    "file",
    required=True,
    type=cluster_file,
    help="The cluster's YAML file, or a name (see `fuseray clusters`).",
)
@click.option(
    "--resume", metavar="RUN", help="Continue this run, which must be there, instead of starting the recipe's."
)
@click.option("--detach", is_flag=True, help="Exit as soon as the job is submitted.")
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

    The job keeps running when this command ends or this machine is switched off. An existing run of the recipe's name
    is resumed. Exit codes are those of `fuseray train RECIPE` on the cluster; 130 also when the job was stopped, or
    when Ctrl-C ended the watching alone.
    """
    cluster, launcher = open_cluster(file)
    resolved = on_cluster(load_and_say(recipe, (*overrides, *resume_overrides(resume))), cluster)
    submitter = Submitter(
        cluster=cluster,
        launcher=launcher,
        submission=_submission(resolved, overrides, cluster, recipe, resume, prices),
        check=partial(_check, resolved, cluster, prices, resume is not None),
    )
    submitter.submit(yes)
    follow_job(submitter.submission.entry, detach, as_json)


def _check(
    resolved: ResolvedRecipe, cluster: Cluster, prices: Path | None, resume: bool, cluster_check: ClusterCheck
) -> None:
    from orchestrator.cli.plan import show_preflight
    from orchestrator.plan.preflight import PreflightOptions, run_preflight

    preflight = run_preflight(
        resolved, cluster, PreflightOptions(prices=prices, resume=resume, from_cluster=cluster_check)
    )
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
    from orchestrator.cluster.jobs.portability import check_for_secrets
    from orchestrator.cluster.jobs.submit import Submission, new_entry
    from orchestrator.config.cluster import node_groups_variable
    from orchestrator.train.plan import recipe_yaml

    check_for_secrets(overrides, resolved.values())
    return Submission(
        entry=new_entry(cluster, resolved.recipe, recipe),
        recipe=recipe_yaml(resolved),
        workload=resolved.recipe.workload,
        resume=resolved.recipe.name if resume not in (None, "auto") else None,
        prices=price_text(prices),
        machines=node_groups_variable(cluster.groups),
    )


ClusterCheck = Mapping[str, Any] | None
"""The cluster head's findings about the recipe, as JSON; None when the head was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Submits a job to a cluster, and starts the cluster if needed.

    Args:
        cluster: where the job will run.
        launcher: of that cluster.
        submission: the job.
        check: prints the plan with its price, and raises `ConfigError` when it has errors.
    """

    cluster: Cluster
    launcher: Launcher
    submission: Submission
    check: Callable[[ClusterCheck], None]

    def submit(self, yes: bool) -> None:
        """Check, show the plan, start the cluster if needed, and submit.

        Args:
            yes: whether machines that cost money may be started without asking.

        Raises:
            ConfigError: the plan has errors; nothing was submitted.
            ClusterError: the cluster cannot be reached, or refuses the job.
        """
        up = self.launcher.is_up()
        self.check(self._check_on_cluster() if up else None)
        if not up:
            self._bring_up(yes)
            _refuse_cluster_errors(self._check_on_cluster())
        self._submit()

    def submit_without_plan(self, yes: bool) -> None:
        """Start the cluster if needed, and submit.

        Args:
            yes: whether machines that cost money may be started without asking.

        Raises:
            ClusterError: the cluster cannot be reached, or refuses the job.
        """
        if not self.launcher.is_up():
            self._bring_up(yes)
        self._submit()

    def _check_on_cluster(self) -> ClusterCheck:
        """Run the checks on the cluster's head; None for a local cluster, which is this machine."""
        if self.cluster.kind == "local":
            return None
        from orchestrator.cluster.jobs.submit import check_recipe_on_cluster

        log(f"cluster {self.cluster.name} checks the recipe")
        return check_recipe_on_cluster(self.submission, connect_to(self.submission.entry.cluster_file), log)

    def _bring_up(self, yes: bool) -> None:
        """Start the cluster, after confirmation when that costs money."""
        cluster = self.cluster
        log(f"cluster {cluster.name} is not up")
        down = command_line("down", cluster.file)
        confirm(cluster, f"Start cluster {cluster.name}? Its machines cost money until `{down}`.", yes)
        self.launcher.up(log)

    def _submit(self) -> None:
        from orchestrator.cluster.jobs.submit import submit

        entry = self.submission.entry
        submit(self.submission, connect_to(entry.cluster_file), own_register())
        log(
            f"job {entry.job} is on cluster {entry.cluster}; it continues without this terminal\n"
            f"  run folder  {entry.run_folder}\n"
            f"  come back   {command_line('logs', entry.job, '-f')}\n"
            f"  stop        {command_line('stop', entry.job)}"
        )


def refuse_errors(ok: bool) -> None:
    """Refuse to submit when a plan has errors.

    Raises:
        ConfigError: it has.
    """
    if not ok:
        raise ConfigError("nothing was submitted: fix what is marked ERROR above first.")


def follow_job(entry: JobRecord, detach: bool, as_json: bool) -> None:
    """Follow a job to its end and exit with its exit code, or print where it is.

    Args:
        entry: the job in this user's register.
        detach: whether to return at once.
        as_json: print JSON, and the log on standard error.
    """
    if detach:
        _print_outcome(_outcome(entry), as_json, f"job {entry.job}: submitted")
        return
    job = follow_to_end(JobRef(entry.job, connect_to(entry.cluster_file), entry), to_stderr=as_json)
    outcome = _outcome(entry) | {"status": job.status, "exit_code": job.code}
    _print_outcome(outcome, as_json, f"job {entry.job}: {job.status.lower()}, exit code {job.code}")
    if job.failure and not job.failure_is_in_log:
        log(job.failure)
    sys.exit(job.code)


def on_cluster(resolved: ResolvedRecipe, cluster: Cluster) -> ResolvedRecipe:
    """Return the recipe with paths as they resolve on the cluster, or refuse it."""
    from orchestrator.cluster.jobs.portability import check_paths_shared
    from orchestrator.config.recipe_paths import with_absolute_paths
    from orchestrator.storage.location import locate
    from orchestrator.storage.run_folder import RunFolder

    if cluster.kind == "local":
        storage, name = resolved.recipe.storage, resolved.recipe.name
        run = RunFolder(locate(f"{storage.uri}/{name}", storage.endpoint))
        return with_absolute_paths(resolved, Path.cwd(), run.recipe_values())
    for warning in check_paths_shared(resolved, Path.cwd()):
        log(f"warning: {warning}")
    return resolved


def price_text(file: Path | None) -> str | None:
    """Return the content of a price file; None without a file.

    Raises:
        ConfigError: it cannot be read.
    """
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a table of prices ({error}).") from error


def _refuse_cluster_errors(cluster_check: ClusterCheck) -> None:
    """Raise the errors found by a cluster that has just been started."""
    errors = [finding for finding in (cluster_check or {}).get("findings", ()) if finding["level"] == "error"]
    if errors:
        lines = "\n".join(f"  {error['name']}: {error['found']}\n    fix: {error['fix']}" for error in errors)
        raise ConfigError(f"nothing was submitted; the cluster, which stays up, says:\n{lines}")


def _outcome(entry: JobRecord) -> dict[str, Any]:
    return {"job": entry.job, "cluster": entry.cluster, "run": entry.run, "run_folder": entry.run_folder}


def _print_outcome(outcome: dict[str, Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(outcome) if as_json else text)
