"""What a user sees on the terminal while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from orchestrator.train.control_channel import Record

PLAIN_EVERY_STEPS = 10
SHOWN = {"loss": "loss", "loss_itc": "itc", "loss_itm": "itm", "loss_mlm": "mlm", "loss_adversarial": "adv"}


class Terminal:
    """One live line on a terminal, plain lines elsewhere.

    Args:
        steps: steps in the run.
        first_step: where it starts.
        quiet: show nothing on standard output.
    """

    def __init__(self, steps: int, first_step: int, quiet: bool = False) -> None:
        self._console = Console(stderr=quiet, highlight=False)
        self._live = self._console.is_terminal
        self._steps = steps
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
        self.message(
            f"run {plan['run']} {verb} {plan['steps']} steps of {plan['samples_per_step']} samples "
            f"on {plan['workers']} {plan['device']} workers; it is written to {plan['run_folder']}"
        )
        for warning in warnings:
            self.message(f"warning: {warning}")

    def message(self, text: str) -> None:
        """Show a line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def step(self, record: Record, skipped: int) -> None:
        """Show that a step is done."""
        text = describe_step(record, skipped)
        self._progress.update(self._task, completed=record.step + 1, description=text)
        last = record.step + 1 == self._steps
        if not self._live and (record.step % PLAIN_EVERY_STEPS == 0 or last):
            self.message(f"step {record.step + 1}/{self._steps} {text}")


def print_plan(plan: Mapping[str, object], warnings: Sequence[str]) -> None:
    """Show a plan as a table."""
    console = Console(highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in plan.items():
        table.add_row(name.replace("_", " "), str(value))
    console.print("# plan")
    console.print(table, soft_wrap=True)
    for warning in warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def describe_step(record: Record, skipped: int) -> str:
    """Return the figures of a step in one line."""
    losses = [f"{short} {record.metrics[name]:.3f}" for name, short in SHOWN.items() if name in record.metrics]
    rates = [f"{record.metrics.get('samples_per_s', 0.0):.0f} samples/s"]
    if record.metrics.get("data_wait_share", 0.0) > 0.2:
        rates.append(f"waiting for data {record.metrics['data_wait_share']:.0%}")
    if skipped:
        rates.append(f"{skipped} skipped")
    return "  ".join(losses + rates)
