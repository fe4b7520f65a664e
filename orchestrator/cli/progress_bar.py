"""Progress of work whose length is known: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 10.0


@contextmanager
def progress_bar(
    what: str, total: int, done: int = 0, quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Show how much is done on standard error; the body calls what it is given after each piece.

    Args:
        what: is counted.
        total: pieces in all.
        done: pieces that were done before.
        quiet: show nothing.
        clock: seconds, for tests.
    """
    console = Console(stderr=True, highlight=False, quiet=quiet)
    columns = (TextColumn(what), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    live = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
    task = live.add_task(what, total=total, completed=done)
    spoken = clock()

    def advance() -> None:
        nonlocal done, spoken
        done += 1
        live.advance(task)
        if not console.is_terminal and clock() - spoken >= PLAIN_EVERY_S:
            spoken = clock()
            console.print(f"{done}/{total} {what}")

    with live:
        yield advance
