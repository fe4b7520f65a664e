"""How far work on shards is, on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from orchestrator.stream.shards.index_shards import Standing

PLAIN_EVERY_S = 10.0


@contextmanager
def shard_progress(
    what_is_bad: str, quiet: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Standing], None]]:
    """Show shards done and samples per second: one live line on a terminal, a plain line now and then elsewhere.

    Args:
        what_is_bad: what the standing counts as bad.
        quiet: show nothing.
        clock: seconds, for tests.
    """
    console = Console(stderr=True, highlight=False, quiet=quiet)
    columns = (TextColumn("shards"), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.description}"))
    live = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True)
    task = live.add_task("", total=None)
    pace = _Pace(clock)
    spoken = clock()

    def show(standing: Standing) -> None:
        nonlocal spoken
        bad = f", {standing.bad} {what_is_bad}" if standing.bad else ""
        text = f"{standing.samples} samples, {pace.samples_per_s(standing.samples):.0f}/s{bad}"
        live.update(task, completed=standing.shards, total=standing.of, description=text)
        if not console.is_terminal and clock() - spoken >= PLAIN_EVERY_S:
            spoken = clock()
            console.print(f"{standing.shards}/{standing.of} shards, {text}", markup=False, soft_wrap=True)

    with live:
        yield show


class _Pace:
    """Samples per second since the first standing, which may hold what an earlier process did."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def samples_per_s(self, samples: int) -> float:
        now = self._clock()
        self._first = self._first or (now, samples)
        start_s, start = self._first
        return (samples - start) / (now - start_s) if now > start_s else 0.0
