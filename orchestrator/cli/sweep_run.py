"""`fuseray sweep SWEEP [key.path=value ...]` and `fuseray sweep --resume NAME`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.cluster_argument import cluster_file
from orchestrator.cli.finding_jobs import open_cluster
from orchestrator.cli.train import INTERRUPTED, USED_UP
from orchestrator.config.errors import FuserayError, SpecError

if TYPE_CHECKING:
    from orchestrator.config.sweep import ResolvedSweep
    from orchestrator.sweep.driver import SweepOutcome
    from orchestrator.sweep.plan import SweepPlan


AUTO = "auto"


@click.command()
@click.argument("words", nargs=-1, metavar="SWEEP [KEY.PATH=VALUE]...")
@click.option(
    "--resume",
    metavar="NAME",
    help="Continue this sweep where it stopped, without SWEEP; 'auto' continues SWEEP's own sweep if there is one.",
)
@click.option("--storage", default="runs", show_default=True, help="Where sweeps are, when NAME is a name.")
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
    help="Run there: a YAML, or NAME for clusters/NAME.yaml.",
)
@click.option("--detach", is_flag=True, help="With --cluster: leave as soon as the job is submitted.")
@click.option("--yes", is_flag=True, help="With --cluster: start machines that cost money without asking.")
@click.option("--no-plan", is_flag=True, help="Start without working out the plan and showing it first.")
@click.option("--dry-run", is_flag=True, help="Show the plan; start nothing. Exit code 2 when something is in the way.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(
    words: tuple[str, ...],
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

    Exit codes: 0 done, 1 it failed or no trial came to its end, 2 the sweep is wrong, 3 its budget is used up, 130
    stopped by a signal; after the last two, fuseray sweep --resume NAME goes on.
    """
    if cluster is not None:
        sweep = _for_cluster(words, resume)
        if dry_run:
            _show_plan(sweep, cluster, prices, dry_run, as_json)
            return
        from orchestrator.cli.sweep_sending import send_sweep

        send_sweep(sweep, Path(words[0]), words[1:], cluster, prices, detach, yes, as_json)
        return
    try:
        plan = _plan(words, resume, storage, endpoint)
    except FuserayError as error:
        raise error if isinstance(error, SpecError) else SpecError(str(error)) from error
    if dry_run or not (no_plan or plan.folder.exists()):
        _show_plan(plan.sweep, None, prices, dry_run, as_json)
    else:
        _check(plan.sweep)
    if dry_run:
        return
    outcome = _run(plan, prices, as_json)
    _show(plan, outcome, as_json)
    sys.exit(_code(outcome))


def _for_cluster(words: tuple[str, ...], resume: str | None) -> ResolvedSweep:
    from orchestrator.config.sweep import load_sweep

    if not words or resume not in (None, AUTO):
        raise click.UsageError("with --cluster name the sweep's file; a sweep of its name that is there is continued")
    return load_sweep(Path(words[0]), words[1:])


def _plan(words: tuple[str, ...], resume: str | None, storage: str, endpoint: str | None) -> SweepPlan:
    if resume is not None and resume != AUTO:
        return _resumed(resume, storage, endpoint, words)
    if not words:
        raise click.UsageError("name the sweep's file, or a sweep to continue with --resume NAME")
    from orchestrator.config.sweep import load_sweep
    from orchestrator.sweep.plan import check_left, check_new, make_sweep_plan

    plan = make_sweep_plan(load_sweep(Path(words[0]), words[1:]))
    if resume is None or not plan.folder.exists():
        check_new(plan.folder)
        return plan
    check_left(plan.folder)
    _refuse_changes(plan)
    return plan


def _resumed(name: str, storage: str, endpoint: str | None, overrides: tuple[str, ...]) -> SweepPlan:
    from orchestrator.sweep.folder import find_sweep
    from orchestrator.sweep.plan import SweepPlan, check_left, make_sweep_plan
    from orchestrator.sweep.stored import stored_sweep

    for word in overrides:
        if "=" not in word:
            raise click.UsageError(f"{word!r}: with --resume NAME no file is named; the sweep is in its folder")
    folder = find_sweep(name, storage, endpoint)
    check_left(folder)
    given = make_sweep_plan(stored_sweep(folder, overrides))
    plan = SweepPlan(given.sweep, given.base, folder)
    _refuse_changes(plan)
    return plan


def _refuse_changes(plan: SweepPlan) -> None:
    from orchestrator.sweep.plan import FREE_TO_CHANGE, changed_keys
    from orchestrator.sweep.stored import stored_sweep

    if changed := changed_keys(stored_sweep(plan.folder), plan.sweep):
        free = ", ".join(f"{key}*" if key.endswith(".") else key for key in FREE_TO_CHANGE)
        raise SpecError(
            f"{plan.folder.root.uri}: a sweep that is continued stays as it is, save for {free}; changed: "
            f"{', '.join(changed)}. Undo that, or start another sweep with name=OTHER."
        )


def _show_plan(sweep: ResolvedSweep, cluster: Path | None, prices: Path | None, dry_run: bool, as_json: bool) -> None:
    """Work out the plan and show it; what scripts read on standard output is the outcome, or a dry run's plan."""
    from orchestrator.cli.preflight import PreflightOptions
    from orchestrator.cli.sweep_plan import plan_sweep, show_sweep_plan

    where = None if cluster is None else open_cluster(cluster)[0]
    planned = plan_sweep(sweep, where, PreflightOptions(prices=prices, quiet=as_json))
    with nullcontext() if dry_run or not as_json else redirect_stdout(sys.stderr):
        show_sweep_plan(planned, as_json and dry_run)
    if not planned.ok:
        raise SpecError("nothing was started: mend what is marked ERROR above first.")


def _check(sweep: ResolvedSweep) -> None:
    """Refuse without a plan, too, what a plan would refuse for the sweep's own faults."""
    from orchestrator.sweep.checking import check_sweep

    check_sweep(sweep)


def _run(plan: SweepPlan, prices: Path | None, quiet: bool) -> SweepOutcome:
    from orchestrator.cli.sweep_terminal import SweepTerminal
    from orchestrator.config.prices import read_prices
    from orchestrator.sweep.driver import run_sweep

    with SweepTerminal(plan, quiet) as terminal:
        return run_sweep(plan, terminal, read_prices(prices))


def _code(outcome: SweepOutcome) -> int:
    if outcome.status == "KILLED":
        return USED_UP if outcome.stopped_by else INTERRUPTED
    return 0 if any(record.status == "FINISHED" for record in outcome.trials) else 1


def _show(plan: SweepPlan, outcome: SweepOutcome, as_json: bool) -> None:
    from orchestrator.cli.sweep_report import as_values, lines
    from orchestrator.sweep.reporting.writing import write_report

    report = write_report(plan.folder)
    statuses = [record.status for record in outcome.trials]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    if as_json:
        values = {"status": outcome.status, "stopped_by": outcome.stopped_by, "trials": counts}
        places = {"sweep_folder": plan.folder.root.uri, "mlflow": plan.base.recipe.tracking.uri}
        click.echo(json.dumps(values | {"cost": outcome.spent.describe()} | places | as_values(report)))
        return
    ending = "is finished" if outcome.status == "FINISHED" else "was stopped"
    trials = ", ".join(f"{count} {status.lower()}" for status, count in counts.items())
    click.echo(f"The sweep {ending}: {trials or 'no trial was started'}. It cost {outcome.spent.describe()}.")
    click.echo("\n".join(lines(report)))
    if outcome.status == "KILLED":
        click.echo(f"Go on with: fuseray sweep --resume {plan.folder.root.uri}")
