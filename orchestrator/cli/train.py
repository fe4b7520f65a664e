"""`fuseray train RECIPE [key.path=value ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.resuming import resume_overrides
from orchestrator.config.errors import FuserayError, SpecError
from orchestrator.config.loading import load_recipe

if TYPE_CHECKING:
    from orchestrator.train.plan import Plan
    from orchestrator.train.resume import Start

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it; SIGTERM ends a run in the same way."""

USED_UP = 3
"""Exit code when the recipe's budget is used up."""


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--resume",
    metavar="RUN",
    help="Continue a run where it stopped; 'auto' continues the recipe's own run if there is one.",
)
@click.option(
    "--prices",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A price table of your own, over the one that comes with Fuseray.",
)
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and the plan; start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(
    recipe: Path, overrides: tuple[str, ...], resume: str | None, prices: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Train RECIPE, with single values overridden by KEY.PATH=VALUE.

    Exit codes: 0 done, 1 the run failed, 2 the recipe is wrong, 3 its budget is used up, 130 stopped by
    a signal; the last two with a checkpoint.
    """
    resolved = load_recipe(recipe, (*overrides, *resume_overrides(resume)))

    from orchestrator.train.plan import make_plan

    try:
        plan = make_plan(resolved)
    except FuserayError as error:
        raise SpecError(str(error)) from error
    if dry_run:
        _show_plan(plan, as_json)
        return
    start = _start(plan, resume)
    if start.done:
        outcome = {"status": "FINISHED", "steps_done": start.first_step, **_places(plan)}
        click.echo(json.dumps(outcome) if as_json else f"{plan.run.root.uri}: already finished.")
        return
    outcome = _train(plan, start, prices, as_json) | _places(plan)
    click.echo(json.dumps(outcome) if as_json else _summary(outcome))
    if outcome["status"] == "KILLED":
        sys.exit(USED_UP if outcome["stopped_by"] else INTERRUPTED)


def _start(plan: Plan, resume: str | None) -> Start:
    from orchestrator.train.resume import continued_run, new_run

    continues = plan.run.exists() if resume == "auto" else resume is not None
    return continued_run(plan, lambda text: click.echo(text, err=True)) if continues else new_run(plan)


def _show_plan(plan: Plan, as_json: bool) -> None:
    from orchestrator.cli.terminal import print_plan
    from orchestrator.train.plan import recipe_yaml

    if as_json:
        click.echo(json.dumps({"recipe": plan.resolved.values(), "plan": plan.describe()}, indent=2))
        return
    click.echo(recipe_yaml(plan.resolved))
    print_plan(plan.describe(), plan.warnings)


def _train(plan: Plan, start: Start, prices: Path | None, quiet: bool) -> dict[str, object]:
    from orchestrator.cli.terminal import Terminal
    from orchestrator.cluster.preemption.watcher import Watchers
    from orchestrator.config.prices import read_prices
    from orchestrator.train.driver import run

    table = read_prices(prices)
    notices = plan.recipe.recovery.notices
    watchers = None if notices == "none" else Watchers(notices)
    with Terminal(plan.steps, start.first_step, quiet) as terminal:
        terminal.begin(plan.describe(), plan.warnings, start.first_step)
        outcome = run(plan, start, terminal, watchers, table)
    return {
        "status": outcome.status,
        "steps_done": outcome.steps_done,
        "stopped_by": outcome.stopped_by,
        "usd": round(outcome.spent.usd, 4),
        "node_hours": round(outcome.spent.node_hours, 4),
        "hours": round(outcome.spent.hours, 4),
        "cost": outcome.spent.describe(),
    }


def _places(plan: Plan) -> dict[str, object]:
    return {
        "run_folder": plan.run.root.uri,
        "checkpoints": plan.run.checkpoints.uri,
        "mlflow": plan.recipe.tracking.uri,
    }


def _summary(values: dict[str, object]) -> str:
    ending = "is finished" if values["status"] == "FINISHED" else "was stopped with a checkpoint"
    why = f" ({values['stopped_by']})" if values["stopped_by"] else ""
    return "\n".join(
        [
            f"The run {ending} after {values['steps_done']} steps.{why}",
            f"  run folder   {values['run_folder']}",
            f"  cost         {values['cost']}",
            f"  checkpoints  {values['checkpoints']}",
            f"  MLflow       mlflow ui --backend-store-uri {values['mlflow']}",
        ]
    )
