"""What a run may use, and what is said when that is nearly or wholly used up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from orchestrator.config.errors import SpecError
from orchestrator.config.recipe import BudgetSection
from orchestrator.track.cost import Kind, Spent

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


def fullest(budget: BudgetSection, spent: Spent) -> Use | None:
    """Return the key of the budget of which the largest part is used; None when the recipe sets no budget."""
    return max(_uses(budget, spent), key=lambda use: use.share, default=None)


def _uses(budget: BudgetSection, spent: Spent) -> Iterator[Use]:
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

    def look(self, spent: Spent) -> str | None:
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


def refuse_used_up(budget: BudgetSection, spent: Spent, run: str) -> None:
    """Refuse to start a run that would have to stop at once.

    Raises:
        SpecError: what is used up, and what to do.
    """
    use = fullest(budget, spent)
    if use is not None and use.share >= 1:
        raise SpecError(f"{use.key}: {use.text} already. {how_to_go_on(use, run)}")


class PriceWatch:
    """Speaks up once about each kind of machine that costs nothing in the books, for want of a known price.

    Args:
        budget: the recipe's section.
    """

    def __init__(self, budget: BudgetSection) -> None:
        self._budget = budget
        self._told: set[str] = set()

    def refuse_unknown(self, kinds: Collection[Kind]) -> None:
        """Refuse a budget in USD when nothing is known to cost any.

        Raises:
            SpecError: no machine has a known price.
        """
        if self._budget.usd is not None and kinds and all(kind.usd_per_hour is None for kind in kinds):
            raise SpecError(
                f"budget.usd: no machine of the cluster has a known price ({_names(kinds)}), so nobody would notice "
                f"when it is used up; {LABELS}, or set budget.hours."
            )

    def look(self, kinds: Collection[Kind]) -> str | None:
        """Take in which machines are there; return what to tell the user, if anything."""
        new = [kind for kind in kinds if kind.usd_per_hour is None and kind.name not in self._told]
        if not new:
            return None
        self._told |= {kind.name for kind in new}
        limit = "; budget.usd does not count them" if self._budget.usd is not None else ""
        return f"warning: machines without a known price ({_names(new)}) cost nothing in cost/usd{limit}; {LABELS}"


def _names(kinds: Iterable[Kind]) -> str:
    return ", ".join(sorted({kind.name for kind in kinds}))
