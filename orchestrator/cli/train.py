"""`fuseray train RECIPE [key.path=value ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from orchestrator.spec.errors import FuserayError, SpecError
from orchestrator.spec.loading import load_recipe


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option(
    "--resume",
    metavar="RUN",
    help="Continue a run where it stopped; 'auto' continues the recipe's own run if there is one.",
)
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and the plan; start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(recipe: Path, overrides: tuple[str, ...], resume: str | None, dry_run: bool, as_json: bool) -> None:
    """Train RECIPE, with single values overridden by KEY.PATH=VALUE.

    Exit codes: 0 done, 1 the run failed, 2 the recipe is wrong, 130 stopped by Ctrl-C with a checkpoint.
    """
    if resume and resume != "auto":
        overrides = (*overrides, f"name={Path(resume.rstrip('/')).name}")
    resolved = load_recipe(recipe, overrides)

    from orchestrator.cli.terminal import Terminal
    from orchestrator.train.plan import make_plan
    from orchestrator.train.recipe_file import recipe_yaml
    from orchestrator.train.start import continued_run, new_run

    try:
        plan = make_plan(resolved)
    except FuserayError as error:
        raise SpecError(str(error)) from error
    if dry_run:
        click.echo(
            json.dumps({"recipe": resolved.values(), "plan": plan.describe()}, indent=2)
            if as_json
            else recipe_yaml(resolved)
        )
        if not as_json:
            Terminal.print_plan(plan.describe(), plan.warnings)
        return
    continues = resume is not None and (resume != "auto" or plan.run.exists())
    start = continued_run(plan) if continues else new_run(plan)
    if start.done:
        click.echo(
            json.dumps({"status": "FINISHED", "run_folder": plan.run.root.uri})
            if as_json
            else f"{plan.run.root.uri}: already finished at step {start.first_step}."
        )
        return

    from orchestrator.train.driver import run

    with Terminal(plan.steps, start.first_step, plan.recipe.batch.samples, quiet=as_json) as terminal:
        terminal.begin(plan.describe(), plan.warnings, start.first_step)
        outcome = run(plan, start, terminal)
    summary = {
        "status": outcome.status,
        "steps_done": outcome.steps_done,
        "run_folder": plan.run.root.uri,
        "checkpoints": plan.run.checkpoints.uri,
        "mlflow": plan.recipe.tracking.uri,
    }
    click.echo(json.dumps(summary) if as_json else Terminal.summary(summary))
    if outcome.status == "KILLED":
        sys.exit(130)
