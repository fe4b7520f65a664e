"""`fuseray train RECIPE [key.path=value ...]`: resolves the run to continue, and shows training on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from orchestrator.cli.files import load_and_say, recipe_file
from orchestrator.config.commands import mlflow_command
from orchestrator.config.document import text_override
from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.train.control_channel import StepRecord
from workloads.contract import Metric

if TYPE_CHECKING:
    from orchestrator.train.plan import Plan
    from orchestrator.train.resume import ResumePoint


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it; SIGTERM ends a run in the same way."""

USED_UP = 3
"""Exit code when the recipe's budget is used up."""


@click.command()
@click.argument("recipe", type=recipe_file)
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
    resolved = load_and_say(recipe, (*overrides, *resume_overrides(resume)))

    from orchestrator.train.plan import make_plan

    try:
        plan = make_plan(resolved)
    except FuserayError as error:
        raise ConfigError(str(error)) from error
    if dry_run:
        _check_files(plan, resume)
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


def _start(plan: Plan, resume: str | None) -> ResumePoint:
    from orchestrator.train.resume import continued_run, new_run

    continues = plan.run.exists() if resume == "auto" else resume is not None
    return continued_run(plan, lambda text: click.echo(text, err=True)) if continues else new_run(plan)


def _check_files(plan: Plan, resume: str | None) -> None:
    from orchestrator.train.plan import check_files

    continues = resume is not None and plan.run.exists() and plan.run.newest_step() > 0
    check_files(plan, new=not continues)


def _show_plan(plan: Plan, as_json: bool) -> None:
    from orchestrator.train.plan import model_description, recipe_yaml

    model = model_description(plan.resolved)
    if as_json:
        values = {"recipe": plan.resolved.values(), "plan": plan.describe(), "model": model}
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(recipe_yaml(plan.resolved))
    print_plan(plan.describe(), plan.warnings, model)


def _train(plan: Plan, start: ResumePoint, prices: Path | None, quiet: bool) -> dict[str, object]:
    from orchestrator.cluster.preemption.watcher import Watchers
    from orchestrator.config.prices import read_prices
    from orchestrator.train.driver import run

    table = read_prices(prices)
    notices = plan.recipe.recovery.notices
    watchers = None if notices == "none" else Watchers(notices)
    reported = plan.resolved.entry.metrics(plan.resolved.workload)
    with Terminal(plan.steps, start.first_step, (*reported.steps, *reported.some_steps), quiet) as terminal:
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
    from orchestrator.track.client import resolve_uri
    from orchestrator.track.mlflow_errors import redact

    address = resolve_uri(str(values["mlflow"]))
    ending = "is finished" if values["status"] == "FINISHED" else "was stopped with a checkpoint"
    why = f" ({values['stopped_by']})" if values["stopped_by"] else ""
    return "\n".join(
        [
            f"The run {ending} after {values['steps_done']} steps.{why}",
            f"  run folder   {values['run_folder']}",
            f"  cost         {values['cost']}",
            f"  checkpoints  {values['checkpoints']}",
            f"  MLflow       {mlflow_command(redact(address, address))}",
        ]
    )


def resume_overrides(resume: str | None) -> list[str]:
    """Return what names the run to resume: by name, or by the path or URI of its folder."""
    if resume is None or resume == "auto":
        return []
    storage, slash, name = resume.rstrip("/").rpartition("/")
    return [text_override("name", name), *([text_override("storage.uri", storage or "/")] if slash else [])]


PLAIN_EVERY_STEPS = 10


class Terminal:
    """One live line on a terminal, plain lines elsewhere.

    Args:
        steps: steps in the run.
        first_step: where it starts.
        metrics: what the workload reports of a step; those that stand on the terminal are shown.
        quiet: show nothing on standard output.
    """

    def __init__(self, steps: int, first_step: int, metrics: Sequence[Metric], quiet: bool = False) -> None:
        self._console = Console(stderr=quiet, highlight=False)
        self._live = self._console.is_terminal
        self._steps = steps
        self._metrics = metrics
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task: TaskID = self._progress.add_task("starting Ray and the workers", total=steps, completed=first_step)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, plan: Mapping[str, object], warnings: Sequence[str], first_step: int) -> None:
        """Say what is about to happen."""
        verb = f"continues at step {first_step} of" if first_step else "has"
        self.log(
            f"run {plan['run']} {verb} {plan['steps']} steps of {plan['samples_per_step']} samples "
            f"on {plan['workers']} {plan['device']} workers; it is written to {plan['run_folder']}"
        )
        for warning in warnings:
            self.log(f"warning: {warning}")

    def log(self, text: str) -> None:
        """Show a line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def step(self, record: StepRecord, skipped: int) -> None:
        """Show that a step is done."""
        text = describe_step(record, skipped, self._metrics)
        self._progress.update(self._task, completed=record.step + 1, description=text)
        last = record.step + 1 == self._steps
        if not self._live and (record.step % PLAIN_EVERY_STEPS == 0 or last):
            self.log(f"step {record.step + 1}/{self._steps} {text}")


def print_plan(plan: Mapping[str, object], warnings: Sequence[str], model: Sequence[str] = ()) -> None:
    """Show a plan as a table, and what there is to say of the model."""
    console = Console(highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in plan.items():
        table.add_row(name.replace("_", " "), str(value))
    console.print("# plan")
    console.print(table, soft_wrap=True)
    for line in model:
        console.print(f"model: {line}", markup=False, soft_wrap=True)
    for warning in warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def describe_step(record: StepRecord, skipped: int, metrics: Sequence[Metric]) -> str:
    """Return a step's metrics in one line: those that the workload puts on the terminal, then the pace."""
    shown = [metric for metric in metrics if metric.on_terminal and metric.name in record.metrics]
    values = [f"{metric.label or metric.name} {_value(record.metrics[metric.name], metric)}" for metric in shown]
    rates = [f"{record.metrics.get('samples_per_s', 0.0):.0f} samples/s"]
    if record.metrics.get("data_wait_share", 0.0) > 0.2:
        rates.append(f"waiting for data {record.metrics['data_wait_share']:.0%}")
    if skipped:
        rates.append(f"{skipped} skipped")
    return "  ".join(values + rates)


def _value(value: float, metric: Metric) -> str:
    return f"{value:.1%}" if metric.share else f"{value:.3f}"
