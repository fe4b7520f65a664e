"""What follows from a sweep's estimate: whether it has room, and how its budget will cut it."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.estimating import Amount, SweepEstimate

FORMS = {"hours": "{:,.2f} h", "gpu_hours": "{:,.1f} GPU-hours", "usd": "${:,.2f}"}


def estimate_findings(sweep: ResolvedSweep, estimate: SweepEstimate) -> Iterator[Finding]:
    """Yield what is to be said about an estimate.

    Args:
        sweep: the sweep.
        estimate: of it.
    """
    yield _room(estimate)
    for key, limit in sweep.sweep.budget:
        if limit is not None:
            yield _budget(key, limit, estimate)


def _room(estimate: SweepEstimate) -> Finding:
    needs, side = estimate.needs, estimate.side_by_side
    each = f"{needs.cpus:.4g} CPUs" + (f" and {needs.gpus} GPUs" if needs.gpus else "")
    if side == 0:
        fix = "Lower scale.workers, scale.cpus_per_worker or stream.reader_cpus (overrides), or name larger machines."
        return failed("room", f"a trial needs {each}, and there are not so many {estimate.bound}", fix)
    return passed("room", f"a trial needs {each}; {side} of {estimate.trials} run side by side ({estimate.bound})")


def _budget(key: str, limit: float, estimate: SweepEstimate) -> Finding:
    said = f"budget.{key} is {FORMS[key].format(limit)}"
    likely, whole = _need(key, estimate.likely), _need(key, estimate.whole)
    if likely is None or whole is None:
        unknown = "what the machines cost" if key == "usd" else "how fast trials are"
        fix = "Nothing: the sweep stops at the limit, and its trials with a checkpoint."
        if key == "usd":
            fix = "Name the prices with --prices FILE; what has no known price is left out of the budget."
        return warned("budget", f"{said}; {unknown} is unknown here", fix)
    needs = f"the sweep needs {FORMS[key].format(likely)}"
    if likely < whole:
        needs += f", {FORMS[key].format(whole)} if no trial is stopped early"
    needs += " (estimate)"
    if likely <= limit:
        return passed("budget", f"{said}; {needs}")
    enough = int(estimate.trials * limit / likely)
    fix = f"Raise budget.{key}, lower search.trials, or shorten the trials (length); it can be continued later."
    lasts = f"lasts for about {enough} of {estimate.trials} trials" if enough else "does not last for a whole trial"
    return warned("budget", f"{said}, and {needs}; it {lasts}", fix)


def _need(key: str, amount: Amount) -> float | None:
    return {"hours": amount.hours, "gpu_hours": amount.gpu_hours, "usd": amount.usd["file"]}[key]
