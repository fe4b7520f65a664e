"""`fuseray sweep report NAME`, and the live table of a running sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console, Group
from rich.live import Live

from orchestrator.cli.console import endpoint_option, json_option, sweep_storage_option
from orchestrator.cli.sweep.status import SweepView, sweep_table
from orchestrator.config.commands import train_command
from orchestrator.sweep.folder import TrialRecord
from orchestrator.sweep.validate import assignment_text
from orchestrator.track.cost import RunCost

if TYPE_CHECKING:
    from orchestrator.sweep.plan import SweepPlan
    from orchestrator.sweep.report.write import SweepReport


@click.command(name="report")
@click.argument("name", metavar="NAME")
@sweep_storage_option
@endpoint_option
@json_option
def command(name: str, storage: str, endpoint: str | None, as_json: bool) -> None:
    """Write NAME's report: the page, the best configuration's recipe, and its model in MLflow's registry.

    Works for a running sweep, too.
    """
    from orchestrator.sweep.folder import find_sweep
    from orchestrator.sweep.report.write import write_report

    report = write_report(find_sweep(name, storage, endpoint))
    if as_json:
        click.echo(json.dumps(report_values(report)))
        return
    click.echo("\n".join(report_lines(report)))
    if report.unsent:
        click.echo("Do this again when MLflow answers; nothing is registered twice.", err=True)


def report_values(report: SweepReport) -> dict[str, object]:
    """Return a report as plain JSON values."""
    best = report.best
    return {
        "report": report.report,
        "bytes": report.size_bytes,
        "status": report.status,
        "best": best
        and {
            "configuration": best.number,
            "trial": report.trial,
            "assignment": dict(best.assignment),
            "objectives": {
                metric: {"mean": score.mean, "spread": score.spread, "replicas": len(score.values)}
                for metric, score in zip(report.metrics, best.scores, strict=True)
            },
            "recipe": report.recipe,
        },
        "model": report.registered and {"uri": report.registered.uri, "new": report.registered.new},
        "unsent": list(report.unsent),
    }


def report_lines(report: SweepReport) -> list[str]:
    """Return a report's results as lines of text."""
    from rich.filesize import decimal

    from orchestrator.sweep.report.axes import score_text

    lines = [f"The report is {report.report} ({decimal(report.size_bytes)}); open it in a browser."]
    if report.status == "RUNNING":
        lines.append("The sweep still runs; report it again when it has ended.")
    if report.best is None:
        return [
            *lines,
            "No configuration has been trained to the end with every replica, so none is the best.",
            *report.unsent,
        ]
    scores = zip(report.metrics, report.best.scores, strict=True)
    reached = ", ".join(f"{metric} {score_text(score)}" for metric, score in scores)
    what = f"a copy of {report.recipe}" if "://" in report.recipe else "it"
    train = train_command(report.recipe)
    lines.append(f"The best is configuration {report.best.number}: {reached}. Train {what}: {train}")
    if report.registered:
        again = "" if report.registered.new else ", as before"
        lines.append(f"Its model is {report.registered.uri} in MLflow's registry ({report.trial}{again}).")
    return [*lines, *report.unsent]


class SweepTerminal:
    """A live table on a terminal; elsewhere a line whenever a trial starts or ends.

    Args:
        plan: the sweep.
        quiet: show nothing on standard output.
    """

    def __init__(self, plan: SweepPlan, quiet: bool = False) -> None:
        self._plan = plan
        self._console = Console(stderr=quiet, highlight=False)
        self._view: SweepView | None = None
        self._statuses: dict[str, str] = {}
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=1)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def log(self, text: str) -> None:
        """Show a line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Show the trials' status."""
        file = self._view.file if self._view else self._plan.folder.read()
        self._view = SweepView(file, self._plan.sweep.sweep, tuple(records), {}, RunCost(), datetime.now(UTC))
        if not self._console.is_terminal:
            self._print_changes(records)

    def _table(self) -> Group:
        return sweep_table(self._view, self._console.width, self._console.height) if self._view else Group()

    def _print_changes(self, records: Sequence[TrialRecord]) -> None:
        for record in records:
            if record.started and self._statuses.get(record.name) != record.status:
                self._statuses[record.name] = record.status
                self.log(f"{record.name} {record.status.lower()}: {_trial_text(record)}")


def _trial_text(record: TrialRecord) -> str:
    values = ", ".join(f"{value:.4g}" for value in record.points[-1].values) if record.points else ""
    last = f"; {values} after {record.points[-1].samples} samples" if record.points else ""
    why = f"; {record.reason.splitlines()[0]}" if record.reason else ""
    return f"{assignment_text(record.assignment)}{last}{why}"
