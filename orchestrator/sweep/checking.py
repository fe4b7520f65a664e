"""What is checked of a sweep before anything starts, beyond what its YAML alone can tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.cluster.findings import Finding
from orchestrator.config.errors import Finding as Fault
from orchestrator.config.errors import RecipeError, SpecError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.sweep import Assignment, ResolvedSweep
from orchestrator.sweep.checking_notes import late, notes
from orchestrator.sweep.checking_objectives import objective_faults
from orchestrator.sweep.checking_reports import report_faults
from orchestrator.sweep.describing import described
from orchestrator.sweep.proposals import STARTUP, drawn, grid

MOST = 200
"""Configurations that are tried; resolving a recipe takes some hundredths of a second."""


Tried = tuple[Assignment, ResolvedRecipe]
"""A configuration with its recipe."""


def check_sweep(sweep: ResolvedSweep) -> tuple[Finding, ...]:
    """Check what can be checked without looking at data; return what else the author should know.

    Args:
        sweep: the sweep.

    Raises:
        RecipeError: it cannot do what it says; all faults are listed with file and line.
    """
    configurations = _configurations(sweep)
    tried, faults = _resolved(sweep, configurations)
    faults += objective_faults(sweep, tried)
    if faults:
        raise RecipeError(faults)
    return tuple(notes(sweep, len(configurations)))


def check_reports(sweep: ResolvedSweep, steps: int) -> tuple[Finding, ...]:
    """Check that trials report, and save, where the scheduler needs it; return what else the author should know.

    Args:
        sweep: the sweep, as `check_sweep` lets it pass.
        steps: of a whole trial.

    Raises:
        RecipeError: they do not; all faults are listed with file and line.
    """
    if faults := report_faults(sweep, steps):
        raise RecipeError(faults)
    return tuple(late(sweep, steps))


def _configurations(sweep: ResolvedSweep) -> Sequence[Assignment]:
    """Return what will be tried: all of a grid, the draws; of an estimator's proposals those that nothing precedes."""
    search = sweep.sweep.search
    try:
        if search.method == "grid":
            return grid(sweep)
        known = MOST if search.method == "random" else STARTUP
        return [drawn(sweep, number) for number in range(min(search.trials or 0, known))]
    except SpecError as error:
        raise RecipeError([Fault(sweep.place("constraints"), str(error))]) from error


def _resolved(sweep: ResolvedSweep, configurations: Sequence[Assignment]) -> tuple[list[Tried], list[Fault]]:
    tried, faults = list[Tried](), dict[str, Fault]()
    for assignment in configurations[:MOST]:
        try:
            tried.append((assignment, sweep.recipe(assignment)))
        except RecipeError as error:
            for message in _messages(error):
                fault = f"space: {described(assignment)} is no recipe: {message} Rule it out with a constraint or when."
                faults.setdefault(message, Fault(sweep.place("space"), fault))
    return tried, list(faults.values())


def _messages(error: RecipeError) -> Iterator[str]:
    return (f"{one.message.rstrip('.')}." for one in error.findings)
