"""Whether an estimate stays within what the recipe allows to be spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.cluster.findings import Finding, passed, warned
from orchestrator.cluster.preflight.costs import Scenario

NAME = "budget"


def check_budget(usd: float | None, hours: float | None, scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    """Yield how the recipe's limits compare with the estimates.

    Args:
        usd: the most dollars; None for no limit.
        hours: the most hours; None for no limit.
        scenarios: at the fewest and at the most workers.
    """
    if usd is not None:
        yield _compared("usd", usd, [each.usd["file"] for each in scenarios], "${:,.0f}")
    if hours is not None:
        yield _compared("hours", hours, [each.hours for each in scenarios], "{:,.1f} h")


def _compared(key: str, limit: float, estimates: Sequence[float | None], form: str) -> Finding:
    known = [estimate for estimate in estimates if estimate is not None]
    said = form.format(limit)
    if not known:
        fix = "Nothing: the run stops by itself, with a checkpoint, when the limit is reached."
        return warned(NAME, f"budget.{key} is {said}; what the run needs is unknown", fix)
    needs = " to ".join(dict.fromkeys(form.format(each) for each in (min(known), max(known))))
    if max(known) <= limit:
        return passed(NAME, f"budget.{key} is {said}; the run needs {needs} (estimate)")
    fix = f"Raise budget.{key}, shorten the run (length), or resume it later; it stops with a checkpoint at the limit."
    return warned(NAME, f"budget.{key} is {said}, and the run needs {needs} (estimate)", fix)
