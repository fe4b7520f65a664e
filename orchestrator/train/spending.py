"""Keeps an eye on what a run spends, and tells its user."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.config.recipe import BudgetSection
from orchestrator.train.budget import BudgetWatch, PriceWatch
from orchestrator.train.cost_meter import CostMeter


class Spending:
    """Compares what the meter shows with the budget.

    Args:
        meter: of the run.
        budget: the recipe's section.
        run: the run's name.
        tell: takes messages for the user.
    """

    def __init__(self, meter: CostMeter, budget: BudgetSection, run: str, tell: Callable[[str], None]) -> None:
        self._meter = meter
        self._budget = BudgetWatch(budget, run)
        self._prices = PriceWatch(budget)
        self._tell = tell

    def begin(self) -> None:
        """Look at the machines before anything runs on them.

        Raises:
            SpecError: the budget is in USD, and none of them has a known price.
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
                self._tell(said)
        return self._budget.reached
