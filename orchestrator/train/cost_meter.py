"""Meters the machines of a run's cluster for as long as its driver is there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast, get_args

from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Market
from orchestrator.config.prices import PriceTable
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.track.cost import Costs, Kind, Spent, Start, read_starts, write_start
from orchestrator.track.metric_log import now_ms

LOOK_EVERY_S = 5.0
END_S = 30.0
"""How long the end of a run waits for a store that does not take the record."""


def kinds_of(nodes: Iterable[Mapping[str, Any]], prices: PriceTable | None, owned: bool = False) -> list[Kind]:
    """Return what kind of machine each node that is alive is on.

    Args:
        nodes: as `ray.nodes()` returns them.
        prices: what machines cost; None when that is not known.
        owned: whether they are the user's own, whatever their labels say.
    """
    return [_kind(node.get("Labels") or {}, prices, owned) for node in nodes if node["Alive"]]


def _kind(labels: Mapping[str, str], prices: PriceTable | None, owned: bool) -> Kind:
    machine, said = labels.get(MACHINE_LABEL), "owned" if owned else labels.get(MARKET_LABEL)
    market = cast(Market, said) if said in get_args(Market) else None
    if market is None:
        return Kind(machine, None, None)
    if prices is None:
        return Kind(machine, market, 0.0 if market == "owned" else None)
    return Kind(machine, market, prices.usd_per_hour(machine, market))


class CostMeter:
    """Meters one start of a run, on top of what earlier ones have used.

    Args:
        folder: the run's record of its machines.
        kinds: looks at what machines are there; what it raises puts the look off.
        share: the part of the machines that is charged to the run.
        now_ms: the time in milliseconds since 1970.

    Raises:
        CostFileError: the record is damaged.
        StorageError: it cannot be read.
    """

    def __init__(
        self,
        folder: Location,
        kinds: Callable[[], Iterable[Kind]],
        share: float = 1.0,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._folder = folder
        self._kinds = kinds
        self._now_ms = now_ms
        self._earlier = read_starts(folder)
        began_ms = now_ms()
        self._start = Start(began_ms, began_ms, share)
        self.costs = Costs([*self._earlier, self._start], running=True)

    def look(self) -> None:
        """Look at the machines; those of the look before are charged until now."""
        with suppress(Exception):  # Ray is away for a moment: the next look covers the time
            self._enter(self._start.seen(self._now_ms(), Counter(self._kinds())))

    @property
    def present(self) -> tuple[Kind, ...]:
        """The kinds of machines at the last look."""
        return tuple(self._start.periods[-1].nodes) if self._start.periods else ()

    def spent(self) -> Spent:
        """Return what the run has used up to the last look."""
        return self.costs.spent()

    def write(self) -> None:
        """Write down what this start has used up to the last look.

        Raises:
            StorageError: it cannot be written.
        """
        write_start(self._folder, self._start)

    def end(self) -> None:
        """Charge until now the machines that were there at the last look."""
        self._enter(self._start.until(self._now_ms()))

    def _enter(self, start: Start) -> None:
        self._start = start
        self.costs = Costs([*self._earlier, start], running=True)


@contextmanager
def metering(meter: CostMeter, tell: Callable[[str], None], every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Look at the machines every few seconds while the body runs, in a thread, and write down what they were.

    Args:
        meter: the meter; Ray is connected.
        tell: takes a message for the user, from the thread.
        every_s: seconds between two looks.
    """
    over = threading.Event()
    meter.look()
    thread = threading.Thread(target=_keep_looking, args=(meter, tell, every_s, over), daemon=True, name="cost-meter")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(END_S)


def _keep_looking(meter: CostMeter, tell: Callable[[str], None], every_s: float, over: threading.Event) -> None:
    ends = told = False
    while True:
        try:
            meter.write()
            told = False
        except StorageError as error:
            if not told:
                tell(f"warning: what the machines cost cannot be written down now: {error} It is tried again.")
            told = True
        if ends:
            return
        ends = over.wait(every_s)
        meter.look()
        if ends:
            meter.end()
