"""When a budget is used up, and what is said about it."""

from __future__ import annotations

import pytest

from orchestrator.config.errors import ConfigError
from orchestrator.config.recipe import BudgetSection
from orchestrator.track.cost import MachineKind, RunCost
from orchestrator.train.budget import BudgetWarnings, PriceWarnings, most_used, refuse_used_up

GPU = MachineKind("p5.48xlarge", "spot", 36.0)
UNKNOWN = MachineKind(None, None, None)
OWN = MachineKind(None, "owned", 0.0)


def spent(hours: float, machines: int = 1) -> RunCost:
    """What machines of 36 USD per hour have used after some hours."""
    return RunCost(3600 * hours, {GPU: 3600 * hours * machines})


def test_without_a_budget_nothing_is_used_up() -> None:
    watch = BudgetWarnings(BudgetSection(), "run")
    assert most_used(BudgetSection(), spent(1000)) is None
    assert watch.check(spent(1000)) is None
    assert not watch.reached


@pytest.mark.parametrize(
    ("budget", "stops_at_h"), [({"usd": 72.0}, 2.0), ({"hours": 3.0}, 3.0), ({"usd": 72.0, "hours": 1.0}, 1.0)]
)
def test_it_warns_once_at_four_fifths_and_stops_once(budget: dict[str, float], stops_at_h: float) -> None:
    watch = BudgetWarnings(BudgetSection(**budget), "mine")
    said = [watch.check(spent(stops_at_h * share)) for share in (0.5, 0.79, 0.81, 0.9, 0.999)]
    assert [text is not None for text in said] == [False, False, True, False, False]
    assert not watch.reached
    stops = watch.check(spent(stops_at_h))
    assert stops is not None
    assert "stops with a checkpoint. To continue, raise the budget: fuseray train RECIPE --resume mine budget." in stops
    assert watch.reached
    assert watch.check(spent(2 * stops_at_h)) is None


def test_the_message_names_key_use_and_fix() -> None:
    watch = BudgetWarnings(BudgetSection(usd=70.0), "mine")
    assert watch.check(spent(2)) == (
        "budget.usd: the run has cost 72.00 of 70 USD; it stops with a checkpoint. "
        "To continue, raise the budget: fuseray train RECIPE --resume mine budget.usd=140"
    )
    assert watch.stopped_by == "budget.usd: the run has cost 72.00 of 70 USD"


def test_a_run_whose_budget_is_used_up_is_not_started() -> None:
    with pytest.raises(ConfigError, match=r"budget.hours: the run has taken 2 of 1.5 hours already\. .*budget.hours=3"):
        refuse_used_up(BudgetSection(hours=1.5), spent(2), "mine")
    refuse_used_up(BudgetSection(hours=2.5), spent(2), "mine")


def test_a_budget_in_usd_needs_a_price() -> None:
    watch = PriceWarnings(BudgetSection(usd=1.0))
    with pytest.raises(ConfigError, match=r"no machine of the cluster has a known price \(unlabelled\)"):
        watch.refuse_unknown([UNKNOWN])
    watch.refuse_unknown([UNKNOWN, GPU])
    watch.refuse_unknown([OWN])
    watch.refuse_unknown([])
    PriceWarnings(BudgetSection(hours=1.0)).refuse_unknown([UNKNOWN])


def test_each_kind_without_a_price_is_told_once() -> None:
    watch = PriceWarnings(BudgetSection(usd=1.0))
    assert watch.check([GPU, OWN]) is None
    first = watch.check([GPU, UNKNOWN])
    assert first is not None
    assert "(unlabelled) cost nothing in cost/usd; budget.usd does not count them" in first
    assert watch.check([UNKNOWN]) is None
    assert "x9" in str(watch.check([UNKNOWN, MachineKind("x9", "spot", None)]))
