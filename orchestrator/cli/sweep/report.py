"""`fuseray sweep report NAME`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console, Group
from rich.live import Live

from orchestrator.cli.options import endpoint_option, json_option, sweep_storage_option
from orchestrator.cli.sweep.status import SweepView, sweep_table
from orchestrator.sweep.folder import TrialRecord
from orchestrator.sweep.validate import described
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

    A sweep that still runs can be reported, too.
    """
    from orchestrator.sweep.folder import find_sweep
    from orchestrator.sweep.report.write import write_report

    found = write_report(find_sweep(name, storage, endpoint))
    if as_json:
        click.echo(json.dumps(as_values(found)))
        return
    click.echo("\n".join(lines(found)))
    if found.unsent:
        click.echo("Do this again when MLflow answers; nothing is registered twice.", err=True)


def as_values(found: SweepReport) -> dict[str, object]:
    """Return a report as JSON has it."""
    best = found.best
    return {
        "report": found.report,
        "bytes": found.size_bytes,
        "status": found.status,
        "best": best
        and {
            "configuration": best.number,
            "trial": found.trial,
            "assignment": dict(best.assignment),
            "objectives": {
                metric: {"mean": score.mean, "spread": score.spread, "replicas": len(score.values)}
                for metric, score in zip(found.metrics, best.scores, strict=True)
            },
            "recipe": found.recipe,
        },
        "model": found.registered and {"uri": found.registered.uri, "new": found.registered.new},
        "unsent": list(found.unsent),
    }


def lines(found: SweepReport) -> list[str]:
    """Return what a report came to in words."""
    from rich.filesize import decimal

    from orchestrator.sweep.report.axes import score_text

    said = [f"The report is {found.report} ({decimal(found.size_bytes)}); open it in a browser."]
    if found.status == "RUNNING":
        said.append("The sweep still runs; report it again when it has ended.")
    if found.best is None:
        return [
            *said,
            "No configuration has been trained to the end with every replica, so none is the best.",
            *found.unsent,
        ]
    scores = zip(found.metrics, found.best.scores, strict=True)
    reached = ", ".join(f"{metric} {score_text(score)}" for metric, score in scores)
    said.append(f"The best is configuration {found.best.number}: {reached}. Train it: fuseray train {found.recipe}")
    if found.registered:
        again = "" if found.registered.new else ", as before"
        said.append(f"Its model is {found.registered.uri} in MLflow's registry ({found.trial}{again}).")
    return [*said, *found.unsent]


class SweepTerminal:
    """A live table on a terminal; elsewhere a line whenever a trial begins or ends.

    Args:
        plan: the sweep.
        quiet: show nothing on standard output.
    """

    def __init__(self, plan: SweepPlan, quiet: bool = False) -> None:
        self._plan = plan
        self._console = Console(stderr=quiet, highlight=False)
        self._view: SweepView | None = None
        self._told: dict[str, str] = {}
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
        """Show how the trials are doing."""
        file = self._view.file if self._view else self._plan.folder.read()
        self._view = SweepView(file, self._plan.sweep.sweep, tuple(records), {}, RunCost(), datetime.now(UTC))
        if not self._console.is_terminal:
            self._tell(records)

    def _table(self) -> Group:
        return sweep_table(self._view, self._console.width, self._console.height) if self._view else Group()

    def _tell(self, records: Sequence[TrialRecord]) -> None:
        for record in records:
            if record.started and self._told.get(record.name) != record.status:
                self._told[record.name] = record.status
                self.log(f"{record.name} {record.status.lower()}: {_said(record)}")


def _said(record: TrialRecord) -> str:
    values = ", ".join(f"{value:.4g}" for value in record.points[-1].values) if record.points else ""
    last = f"; {values} after {record.points[-1].samples} samples" if record.points else ""
    why = f"; {record.reason.splitlines()[0]}" if record.reason else ""
    return f"{described(record.assignment)}{last}{why}"
