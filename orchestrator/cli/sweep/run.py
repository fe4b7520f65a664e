"""`fuseray sweep SWEEP [key.path=value ...]` and `fuseray sweep VERB`: runs a sweep here or submits it to a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.cluster.job_access import open_cluster
from orchestrator.cli.cluster.submit import ClusterCheck, Submitter, follow_job, on_cluster, price_text, refuse_errors
from orchestrator.cli.console import json_option, sweep_storage_option
from orchestrator.cli.files import cluster_file, say, sweep_file
from orchestrator.cli.main import LazyGroup
from orchestrator.cli.train import INTERRUPTED, USED_UP
from orchestrator.config.commands import command_line
from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.sweep import ResolvedSweep

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.submit import Submission
    from orchestrator.config.cluster import Cluster
    from orchestrator.sweep.driver import SweepOutcome
    from orchestrator.sweep.plan import SweepPlan


RUN = "run"
VERBS = {
    RUN: (
        "orchestrator.cli.sweep.run:run_command",
        "Run a sweep, or continue one with --resume; the word 'run' may be left out.",
    ),
    "status": ("orchestrator.cli.sweep.status:command", "Show the trials of a sweep."),
    "report": (
        "orchestrator.cli.sweep.report:command",
        "Write a sweep's report page, its best recipe, and register its best model.",
    ),
}


class Sweeps(LazyGroup):
    """A group whose first verb is the default."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb in front of a sweep's file."""
        named = not args or args[0] in VERBS or args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if named else [RUN, *args])


@click.command(cls=Sweeps, verbs=VERBS)
def command() -> None:
    """Search hyperparameters: `fuseray sweep SWEEP [KEY.PATH=VALUE]...`."""


AUTO = "auto"


@click.command()
@click.argument("arguments", nargs=-1, metavar="SWEEP [KEY.PATH=VALUE]...")
@click.option(
    "--resume",
    metavar="NAME",
    help="Continue this sweep where it stopped, without SWEEP; 'auto' continues SWEEP's own sweep if there is one.",
)
@sweep_storage_option
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs of --resume.")
@click.option(
    "--prices",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A price table of your own, over the one that comes with Fuseray.",
)
@click.option(
    "--cluster",
    type=cluster_file,
    metavar="CLUSTER",
    help="Run there: a YAML file, or a name (see `fuseray clusters`).",
)
@click.option("--detach", is_flag=True, help="With --cluster: leave as soon as the job is submitted.")
@click.option("--yes", is_flag=True, help="With --cluster: start machines that cost money without asking.")
@click.option("--no-plan", is_flag=True, help="Start without working out the plan and showing it first.")
@click.option("--dry-run", is_flag=True, help="Show the plan; start nothing. Exit code 2 when something is in the way.")
@json_option
def run_command(
    arguments: tuple[str, ...],
    resume: str | None,
    storage: str,
    endpoint: str | None,
    prices: Path | None,
    cluster: Path | None,
    detach: bool,
    yes: bool,
    no_plan: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the sweep of a file, with single values overridden by KEY.PATH=VALUE.

    Exit codes: 0 done, 1 it failed or no trial finished, 2 the sweep is wrong, 3 its budget is used up, 130 stopped by
    a signal; after the last two, `fuseray sweep --resume NAME` continues it.
    """
    if cluster is not None:
        file, sweep = _for_cluster(arguments, resume)
        if dry_run:
            _show_plan(sweep, cluster, prices, dry_run, as_json)
            return
        submit_sweep(sweep, file, arguments[1:], cluster, prices, detach, yes, as_json)
        return
    try:
        plan = _plan(arguments, resume, storage, endpoint)
    except FuserayError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    if dry_run or not (no_plan or plan.folder.exists()):
        _show_plan(plan.sweep, None, prices, dry_run, as_json)
    else:
        _refuse_invalid(plan.sweep)
    if dry_run:
        return
    outcome = _run(plan, prices, as_json)
    _print_outcome(plan, outcome, as_json)
    sys.exit(_exit_code(outcome))


def _for_cluster(arguments: tuple[str, ...], resume: str | None) -> tuple[Path, ResolvedSweep]:
    from orchestrator.config.sweep import load_sweep

    if not arguments or resume not in (None, AUTO):
        raise click.UsageError("with --cluster name the sweep's file; a sweep of its name that is there is continued")
    file = sweep_file(arguments[0])
    sweep = load_sweep(file, arguments[1:])
    say(sweep.base.notes)
    return file, sweep


def _plan(arguments: tuple[str, ...], resume: str | None, storage: str, endpoint: str | None) -> SweepPlan:
    if resume is not None and resume != AUTO:
        return _resumed(resume, storage, endpoint, arguments)
    if not arguments:
        raise click.UsageError("name the sweep's file, or a sweep to continue with --resume NAME")
    from orchestrator.config.sweep import load_sweep
    from orchestrator.sweep.plan import check_folder_unused, make_sweep_plan

    sweep = load_sweep(sweep_file(arguments[0]), arguments[1:])
    say(sweep.base.notes)
    plan = make_sweep_plan(sweep)
    if resume is None or not plan.folder.exists():
        check_folder_unused(plan.folder)
        return plan
    _refuse_changes(plan)
    return plan


def _resumed(name: str, storage: str, endpoint: str | None, overrides: tuple[str, ...]) -> SweepPlan:
    from orchestrator.sweep.folder import find_sweep, stored_sweep
    from orchestrator.sweep.plan import SweepPlan, make_sweep_plan

    for word in overrides:
        if "=" not in word:
            raise click.UsageError(f"{word!r}: with --resume NAME no file is named; the sweep is in its folder")
    folder = find_sweep(name, storage, endpoint)
    given = make_sweep_plan(stored_sweep(folder, overrides))
    plan = SweepPlan(given.sweep, given.base, folder)
    _refuse_changes(plan)
    return plan


def _refuse_changes(plan: SweepPlan) -> None:
    from orchestrator.sweep.folder import stored_sweep
    from orchestrator.sweep.plan import CHANGEABLE_KEYS, changed_keys

    if changed := changed_keys(stored_sweep(plan.folder), plan.sweep):
        free = ", ".join(f"{key}*" if key.endswith(".") else key for key in CHANGEABLE_KEYS)
        raise ConfigError(
            f"{plan.folder.root.uri}: a sweep that is continued stays as it is, except for {free}; changed: "
            f"{', '.join(changed)}. Undo that, or start another sweep with name=OTHER."
        )


def _show_plan(sweep: ResolvedSweep, cluster: Path | None, prices: Path | None, dry_run: bool, as_json: bool) -> None:
    """Make the plan and show it; with --json, standard output is for the outcome, or for a dry run's plan."""
    from orchestrator.cli.sweep.plan import plan_sweep, show_sweep_plan
    from orchestrator.plan.preflight import PreflightOptions

    where = None if cluster is None else open_cluster(cluster)[0]
    planned = plan_sweep(sweep, where, PreflightOptions(prices=prices, quiet=as_json))
    with nullcontext() if dry_run or not as_json else redirect_stdout(sys.stderr):
        show_sweep_plan(planned, as_json and dry_run)
    if not planned.ok:
        raise ConfigError("nothing was started: fix what is marked ERROR above first.")


def _refuse_invalid(sweep: ResolvedSweep) -> None:
    """Refuse an invalid sweep also when no plan is made."""
    from orchestrator.sweep.validate import check_sweep

    check_sweep(sweep)


def _run(plan: SweepPlan, prices: Path | None, quiet: bool) -> SweepOutcome:
    from orchestrator.cli.sweep.report import SweepTerminal
    from orchestrator.config.prices import read_prices
    from orchestrator.sweep.driver import run_sweep

    with SweepTerminal(plan, quiet) as terminal:
        return run_sweep(plan, terminal, read_prices(prices))


def _exit_code(outcome: SweepOutcome) -> int:
    if outcome.status == "KILLED":
        return USED_UP if outcome.stopped_by else INTERRUPTED
    return 0 if any(record.status == "FINISHED" for record in outcome.trials) else 1


def _print_outcome(plan: SweepPlan, outcome: SweepOutcome, as_json: bool) -> None:
    from orchestrator.cli.sweep.report import report_lines, report_values
    from orchestrator.sweep.report.write import write_report

    report = write_report(plan.folder)
    statuses = [record.status for record in outcome.trials]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    if as_json:
        values = {"status": outcome.status, "stopped_by": outcome.stopped_by, "trials": counts}
        locations = {"sweep_folder": plan.folder.root.uri, "mlflow": plan.base.recipe.tracking.uri}
        click.echo(json.dumps(values | {"cost": outcome.spent.describe()} | locations | report_values(report)))
        return
    ending = "is finished" if outcome.status == "FINISHED" else "was stopped"
    trials = ", ".join(f"{count} {status.lower()}" for status, count in counts.items())
    click.echo(f"The sweep {ending}: {trials or 'no trial was started'}. It cost {outcome.spent.describe()}.")
    click.echo("\n".join(report_lines(report)))
    if outcome.status == "KILLED":
        root = plan.folder.root
        click.echo(f"Continue with: {command_line('sweep', resume=root.uri, endpoint=root.endpoint)}")


def submit_sweep(
    sweep: ResolvedSweep,
    file: Path,
    overrides: Sequence[str],
    cluster_file: Path,
    prices: Path | None,
    detach: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Submit a sweep as a job, which continues an existing sweep of the name, and follow the job.

    Args:
        sweep: the sweep.
        file: the sweep's file.
        overrides: `key.path=value` from the command line.
        cluster_file: the cluster's file.
        prices: the user's own price file.
        detach: whether to return as soon as the job is submitted.
        yes: whether nodes that cost money may be started without confirmation.
        as_json: print JSON for scripts.

    Raises:
        ConfigError: the plan has errors; nothing was submitted.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    cluster, launcher = open_cluster(cluster_file)
    resolved = on_cluster(sweep.recipe({}), cluster)
    submission = _submission(sweep, resolved, file, overrides, cluster, prices)
    check = partial(_check_submission, sweep, cluster, prices)
    Submitter(cluster=cluster, launcher=launcher, submission=submission, check=check).submit(yes)
    follow_job(submission.entry, detach, as_json)


def _check_submission(sweep: ResolvedSweep, cluster: Cluster, prices: Path | None, cluster_check: ClusterCheck) -> None:
    from orchestrator.cli.sweep.plan import plan_sweep, show_sweep_plan
    from orchestrator.plan.preflight import PreflightOptions

    planned = plan_sweep(sweep, cluster, PreflightOptions(prices=prices, from_cluster=cluster_check))
    with redirect_stdout(sys.stderr):
        show_sweep_plan(planned)
    refuse_errors(planned.ok)


def _submission(
    sweep: ResolvedSweep,
    resolved: ResolvedRecipe,
    file: Path,
    overrides: Sequence[str],
    cluster: Cluster,
    prices: Path | None,
) -> Submission:
    from orchestrator.cluster.jobs.package import RECIPE_NAME
    from orchestrator.cluster.jobs.portability import check_for_secrets
    from orchestrator.cluster.jobs.submit import Submission, new_entry
    from orchestrator.config.cluster import node_groups_variable
    from orchestrator.config.yaml_text import to_yaml

    check_for_secrets(overrides, resolved.values())
    spec = sweep.sweep.model_dump(mode="json") | {"recipe": RECIPE_NAME, "overrides": {"scale.address": "auto"}}
    return Submission(
        entry=new_entry(cluster, resolved.recipe, file, "sweep"),
        recipe=_base(sweep, resolved),
        workload=resolved.recipe.workload,
        prices=price_text(prices),
        sweep=to_yaml(spec),
        machines=node_groups_variable(cluster.groups),
    )


def _base(sweep: ResolvedSweep, resolved: ResolvedRecipe) -> str:
    """Return the recipe that trials share, with paths as they resolve on the cluster."""
    from orchestrator.config.yaml_text import to_yaml

    written, meant = sweep.base.to_dict().keys() | {"storage", "tracking"}, resolved.values()
    return to_yaml({key: value for key, value in meant.items() if key in written})
