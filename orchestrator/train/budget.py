"""Meters the machines of a run's cluster for as long as its driver is there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast, get_args

from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Market
from orchestrator.config.errors import ConfigError
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import BudgetSection
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.track.cost import Costs, MachineKind, RunCost, StartUsage, read_starts, write_start
from orchestrator.track.metric_log import now_ms

LOOK_EVERY_S = 5.0
END_S = 30.0
"""How long the end of a run waits for a store that does not take the record."""


def kinds_of(nodes: Iterable[Mapping[str, Any]], prices: PriceTable | None, owned: bool = False) -> list[MachineKind]:
    """Return what kind of machine each node that is alive is on.

    Args:
        nodes: as `ray.nodes()` returns them.
        prices: what machines cost; None when that is not known.
        owned: whether they are the user's own, whatever their labels say.
    """
    return [_kind(node.get("Labels") or {}, prices, owned) for node in nodes if node["Alive"]]


def _kind(labels: Mapping[str, str], prices: PriceTable | None, owned: bool) -> MachineKind:
    machine, said = labels.get(MACHINE_LABEL), "owned" if owned else labels.get(MARKET_LABEL)
    market = cast(Market, said) if said in get_args(Market) else None
    if market is None:
        return MachineKind(machine, None, None)
    if prices is None:
        return MachineKind(machine, market, 0.0 if market == "owned" else None)
    return MachineKind(machine, market, prices.usd_per_hour(machine, market))


class CostMeter:
    """Meters one start of a run, on top of what earlier ones have used.

    Args:
        folder: the run's record of its machines.
        kinds: looks at what machines are there; what it raises puts the look off.
        share: the part of the machines that is charged to the run.
        now_ms: the time in milliseconds since 1970.

    Raises:
        CostRecordError: the record is damaged.
        StorageError: it cannot be read.
    """

    def __init__(
        self,
        folder: Location,
        kinds: Callable[[], Iterable[MachineKind]],
        share: float = 1.0,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._folder = folder
        self._kinds = kinds
        self._now_ms = now_ms
        self._earlier = read_starts(folder)
        began_ms = now_ms()
        self._start = StartUsage(began_ms, began_ms, share)
        self.costs = Costs([*self._earlier, self._start], running=True)

    def look(self) -> None:
        """Look at the machines; those of the look before are charged until now."""
        with suppress(Exception):  # Ray is away for a moment: the next look covers the time
            self._enter(self._start.seen(self._now_ms(), Counter(self._kinds())))

    @property
    def present(self) -> tuple[MachineKind, ...]:
        """The kinds of machines at the last look."""
        return tuple(self._start.periods[-1].nodes) if self._start.periods else ()

    def spent(self) -> RunCost:
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

    def _enter(self, start: StartUsage) -> None:
        self._start = start
        self.costs = Costs([*self._earlier, start], running=True)


@contextmanager
def metering(meter: CostMeter, log: Callable[[str], None], every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Look at the machines every few seconds while the body runs, in a thread, and write down what they were.

    Args:
        meter: the meter; Ray is connected.
        log: takes a message for the user, from the thread.
        every_s: seconds between two looks.
    """
    over = threading.Event()
    meter.look()
    thread = threading.Thread(target=_keep_looking, args=(meter, log, every_s, over), daemon=True, name="cost-meter")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(END_S)


def _keep_looking(meter: CostMeter, log: Callable[[str], None], every_s: float, over: threading.Event) -> None:
    ends = told = False
    while True:
        try:
            meter.write()
            told = False
        except StorageError as error:
            if not told:
                log(f"warning: what the machines cost cannot be written down now: {error} It is tried again.")
            told = True
        if ends:
            return
        ends = over.wait(every_s)
        meter.look()
        if ends:
            meter.end()


# Keeps an eye on what a run spends, and tells its user.


class Spending:
    """Compares what the meter shows with the budget.

    Args:
        meter: of the run.
        budget: the recipe's section.
        run: the run's name.
        log: takes messages for the user.
    """

    def __init__(self, meter: CostMeter, budget: BudgetSection, run: str, log: Callable[[str], None]) -> None:
        self._meter = meter
        self._budget = BudgetWatch(budget, run)
        self._prices = PriceWatch(budget)
        self._log = log

    def begin(self) -> None:
        """Look at the machines before anything runs on them.

        Raises:
            ConfigError: the budget is in USD, and none of them has a known price.
        """
        self._prices.refuse_unknown(self._meter.present)
        self.used_up()

    @property
    def stopped_by(self) -> str:
        """The key of the budget that is used up, and how far; empty while nothing is."""
        return self._budget.stopped_by

    def used_up(self) -> bool:
        """Look again; return whether the run is to stop."""
        for said in (self._prices.look(self._meter.present), self._budget.look(self._meter.spent())):
            if said is not None:
                self._log(said)
        return self._budget.reached


# What a run may use, and what is said when that is nearly or wholly used up.


NEARLY = 0.8
"""From this share of the budget on, the user is warned."""

LABELS = (
    "label Ray's nodes with fuseray.io/machine and ray.io/market-type, as the shipped cluster files do, or name a "
    "price table that knows them with --prices"
)


@dataclass(frozen=True, slots=True)
class Use:
    """How much of one key of the budget is used.

    Args:
        key: the recipe's key.
        used: so much.
        allowed: of so much.
        text: both in words.
    """

    key: str
    used: float
    allowed: float
    text: str

    @property
    def share(self) -> float:
        """The used part, 1 when all is used."""
        return self.used / self.allowed


def fullest(budget: BudgetSection, spent: RunCost) -> Use | None:
    """Return the key of the budget of which the largest part is used; None when the recipe sets no budget."""
    return max(_uses(budget, spent), key=lambda use: use.share, default=None)


def _uses(budget: BudgetSection, spent: RunCost) -> Iterator[Use]:
    if budget.usd is not None:
        text = f"the run has cost {spent.usd:.2f} of {budget.usd:g} USD"
        yield Use("budget.usd", spent.usd, budget.usd, text)
    if budget.hours is not None:
        text = f"the run has taken {spent.hours:.3g} of {budget.hours:g} hours"
        yield Use("budget.hours", spent.hours, budget.hours, text)


class BudgetWatch:
    """Speaks up once when most of a budget is used, and once when all of it is.

    Args:
        budget: the recipe's section.
        run: the run's name.
    """

    def __init__(self, budget: BudgetSection, run: str) -> None:
        self._budget = budget
        self._run = run
        self._warned = False
        self.stopped_by = ""

    @property
    def reached(self) -> bool:
        """Whether the run is to stop."""
        return bool(self.stopped_by)

    def look(self, spent: RunCost) -> str | None:
        """Take in what was used; return what to tell the user, if anything."""
        use = fullest(self._budget, spent)
        if use is None or self.reached:
            return None
        if use.share >= 1:
            self.stopped_by = f"{use.key}: {use.text}"
            return f"{self.stopped_by}; it stops with a checkpoint. {how_to_go_on(use, self._run)}"
        if use.share >= NEARLY and not self._warned:
            self._warned = True
            return f"warning: {use.key}: {use.text}; it stops with a checkpoint when all is used"
        return None


def how_to_go_on(use: Use, run: str) -> str:
    """Return what the user does to have the run go on."""
    return f"To go on, raise the budget: fuseray train RECIPE --resume {run} {use.key}={2 * use.allowed:g}"


def refuse_used_up(budget: BudgetSection, spent: RunCost, run: str) -> None:
    """Refuse to start a run that would have to stop at once.

    Raises:
        ConfigError: what is used up, and what to do.
    """
    use = fullest(budget, spent)
    if use is not None and use.share >= 1:
        raise ConfigError(f"{use.key}: {use.text} already. {how_to_go_on(use, run)}")


class PriceWatch:
    """Speaks up once about each kind of machine that costs nothing in the books, for want of a known price.

    Args:
        budget: the recipe's section.
    """

    def __init__(self, budget: BudgetSection) -> None:
        self._budget = budget
        self._told: set[str] = set()

    def refuse_unknown(self, kinds: Collection[MachineKind]) -> None:
        """Refuse a budget in USD when nothing is known to cost any.

        Raises:
            ConfigError: no machine has a known price.
        """
        if self._budget.usd is not None and kinds and all(kind.usd_per_hour is None for kind in kinds):
            raise ConfigError(
                f"budget.usd: no machine of the cluster has a known price ({_names(kinds)}), so nobody would notice "
                f"when it is used up; {LABELS}, or set budget.hours."
            )

    def look(self, kinds: Collection[MachineKind]) -> str | None:
        """Take in which machines are there; return what to tell the user, if anything."""
        new = [kind for kind in kinds if kind.usd_per_hour is None and kind.name not in self._told]
        if not new:
            return None
        self._told |= {kind.name for kind in new}
        limit = "; budget.usd does not count them" if self._budget.usd is not None else ""
        return f"warning: machines without a known price ({_names(new)}) cost nothing in cost/usd{limit}; {LABELS}"


def _names(kinds: Iterable[MachineKind]) -> str:
    return ", ".join(sorted({kind.name for kind in kinds}))
