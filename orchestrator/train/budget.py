"""The cost of a run while its driver runs, and its budget: metering, warnings, and the stop when it is used up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast, get_args

from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Market
from orchestrator.config.commands import resume_command
from orchestrator.config.errors import ConfigError
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import BudgetSection
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.timing import now_ms
from orchestrator.track.cost import Costs, MachineKind, RunCost, StartUsage, read_starts, write_start

SAMPLE_EVERY_S = 5.0
FINAL_WRITE_TIMEOUT_S = 30.0
"""How long the end of a run waits for the last write of the cost record."""


def machine_kinds(
    nodes: Iterable[Mapping[str, Any]], prices: PriceTable | None, owned: bool = False
) -> list[MachineKind]:
    """Return the kind of machine of each node that is alive.

    Args:
        nodes: as `ray.nodes()` returns them.
        prices: prices of machines; None when unknown.
        owned: whether they are the user's own, regardless of their labels.
    """
    return [_kind(node.get("Labels") or {}, prices, owned) for node in nodes if node["Alive"]]


def _kind(labels: Mapping[str, str], prices: PriceTable | None, owned: bool) -> MachineKind:
    machine, label = labels.get(MACHINE_LABEL), "owned" if owned else labels.get(MARKET_LABEL)
    market = cast(Market, label) if label in get_args(Market) else None
    if market is None:
        return MachineKind(machine, None, None)
    if prices is None:
        return MachineKind(machine, market, 0.0 if market == "owned" else None)
    return MachineKind(machine, market, prices.usd_per_hour(machine, market))


class CostMeter:
    """Meters one start of a run, on top of what earlier starts have cost.

    Args:
        folder: of the run's cost record.
        kinds: returns the kinds of the machines now present; when it raises, that sample is left out.
        share: the share of the machines' cost that is charged to the run.
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

    def sample(self) -> None:
        """Sample the machines; those of the previous sample are charged until now."""
        with suppress(Exception):  # Ray does not answer for a moment: the next sample covers the time
            self._update(self._start.seen(self._now_ms(), Counter(self._kinds())))

    @property
    def present(self) -> tuple[MachineKind, ...]:
        """The kinds of machines at the last sample."""
        return tuple(self._start.periods[-1].nodes) if self._start.periods else ()

    def spent(self) -> RunCost:
        """Return what the run has cost up to the last sample."""
        return self.costs.spent()

    def write(self) -> None:
        """Write the cost record of this start up to the last sample.

        Raises:
            StorageError: it cannot be written.
        """
        write_start(self._folder, self._start)

    def end(self) -> None:
        """Charge the machines of the last sample until now."""
        self._update(self._start.until(self._now_ms()))

    def _update(self, start: StartUsage) -> None:
        self._start = start
        self.costs = Costs([*self._earlier, start], running=True)


@contextmanager
def metering(meter: CostMeter, log: Callable[[str], None], every_s: float = SAMPLE_EVERY_S) -> Iterator[None]:
    """Sample the machines and write the cost record every few seconds while the body runs, in a thread.

    Args:
        meter: the meter; Ray is connected.
        log: takes a message for the user, from the thread.
        every_s: seconds between two samples.
    """
    ended = threading.Event()
    meter.sample()
    thread = threading.Thread(target=_keep_sampling, args=(meter, log, every_s, ended), daemon=True, name="cost-meter")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(FINAL_WRITE_TIMEOUT_S)


def _keep_sampling(meter: CostMeter, log: Callable[[str], None], every_s: float, ended: threading.Event) -> None:
    is_last = warned = False
    while True:
        try:
            meter.write()
            warned = False
        except StorageError as error:
            if not warned:
                log(f"warning: the cost record cannot be written now: {error} It is tried again.")
            warned = True
        if is_last:
            return
        is_last = ended.wait(every_s)
        meter.sample()
        if is_last:
            meter.end()


class BudgetMonitor:
    """Compares a run's cost with its budget, and warns the user.

    Args:
        meter: of the run.
        budget: the recipe's section.
        run: URI of the run's folder.
        log: takes messages for the user.
    """

    def __init__(self, meter: CostMeter, budget: BudgetSection, run: str, log: Callable[[str], None]) -> None:
        self._meter = meter
        self._budget = BudgetWarnings(budget, run)
        self._prices = PriceWarnings(budget)
        self._log = log

    def check_prices(self) -> None:
        """Check the machines before anything runs on them.

        Raises:
            ConfigError: the budget is in USD, and none of them has a known price.
        """
        self._prices.refuse_unknown(self._meter.present)
        self.used_up()

    @property
    def stopped_by(self) -> str:
        """The key of the budget that is used up, and its use; empty while none is."""
        return self._budget.stopped_by

    def used_up(self) -> bool:
        """Check budget and prices now; return whether the run is to stop."""
        for warning in (self._prices.check(self._meter.present), self._budget.check(self._meter.spent())):
            if warning is not None:
                self._log(warning)
        return self._budget.reached


WARN_FROM_SHARE = 0.8
"""From this share of the budget on, the user is warned."""

LABELS = (
    "label Ray's nodes with fuseray.io/machine and ray.io/market-type, as the shipped cluster files do, or name a "
    "price table that knows them with --prices"
)


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """How much of one budget is used.

    Args:
        key: the recipe's key.
        used: in USD or hours.
        allowed: in the same unit.
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


def most_used(budget: BudgetSection, spent: RunCost) -> BudgetUse | None:
    """Return the use of the budget of which the largest share is used; None when the recipe sets no budget."""
    return max(_uses(budget, spent), key=lambda use: use.share, default=None)


def _uses(budget: BudgetSection, spent: RunCost) -> Iterator[BudgetUse]:
    if budget.usd is not None:
        text = f"the run has cost {spent.usd:.2f} of {budget.usd:g} USD"
        yield BudgetUse("budget.usd", spent.usd, budget.usd, text)
    if budget.hours is not None:
        text = f"the run has taken {spent.hours:.3g} of {budget.hours:g} hours"
        yield BudgetUse("budget.hours", spent.hours, budget.hours, text)


class BudgetWarnings:
    """Warns once when most of a budget is used, and once when all of it is.

    Args:
        budget: the recipe's section.
        run: URI of the run's folder.
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

    def check(self, spent: RunCost) -> str | None:
        """Return a message for the user about what was spent, if there is one to give."""
        use = most_used(self._budget, spent)
        if use is None or self.reached:
            return None
        if use.share >= 1:
            self.stopped_by = f"{use.key}: {use.text}"
            return f"{self.stopped_by}; it stops with a checkpoint. {resume_hint(use, self._run)}"
        if use.share >= WARN_FROM_SHARE and not self._warned:
            self._warned = True
            return f"warning: {use.key}: {use.text}; it stops with a checkpoint when all is used"
        return None


def resume_hint(use: BudgetUse, run: str) -> str:
    """Return the command that continues the run with a larger budget."""
    return f"To continue, raise the budget: {resume_command(run, f'{use.key}={2 * use.allowed:g}')}"


def refuse_used_up(budget: BudgetSection, spent: RunCost, run: str) -> None:
    """Refuse to start a run that would have to stop at once.

    Raises:
        ConfigError: a budget is used up already.
    """
    use = most_used(budget, spent)
    if use is not None and use.share >= 1:
        raise ConfigError(f"{use.key}: {use.text} already. {resume_hint(use, run)}")


class PriceWarnings:
    """Warns once about each kind of machine that is counted as free because its price is unknown.

    Args:
        budget: the recipe's section.
    """

    def __init__(self, budget: BudgetSection) -> None:
        self._budget = budget
        self._warned: set[str] = set()

    def refuse_unknown(self, kinds: Collection[MachineKind]) -> None:
        """Refuse a budget in USD when no machine has a known price.

        Raises:
            ConfigError: no machine has a known price.
        """
        if self._budget.usd is not None and kinds and all(kind.usd_per_hour is None for kind in kinds):
            raise ConfigError(
                f"budget.usd: no machine of the cluster has a known price ({_names(kinds)}), so it would never "
                f"be used up; {LABELS}, or set budget.hours."
            )

    def check(self, kinds: Collection[MachineKind]) -> str | None:
        """Return a warning about machines without a known price, if there are new ones."""
        new = [kind for kind in kinds if kind.usd_per_hour is None and kind.name not in self._warned]
        if not new:
            return None
        self._warned |= {kind.name for kind in new}
        limit = "; budget.usd does not count them" if self._budget.usd is not None else ""
        return f"warning: machines without a known price ({_names(new)}) cost nothing in cost/usd{limit}; {LABELS}"


def _names(kinds: Iterable[MachineKind]) -> str:
    return ", ".join(sorted({kind.name for kind in kinds}))
