"""Whether a run starts anew or continues, decided before anything is started."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.storage.run_folder import RunError, RunFile
from orchestrator.train.plan import Plan
from orchestrator.train.recipe_file import differences

FREE_TO_CHANGE = ("name", "scale.", "storage.", "tracking.", "checkpoint.", "evaluation.")
"""Keys that do not change the result; the rest must stay as they were for a run to continue exactly."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a run starts.

    Args:
        previous: what the run remembers; None for a new run.
        first_step: the first step to do.
        done: whether there is nothing left to do.
    """

    previous: RunFile | None
    first_step: int = 0
    done: bool = False


def new_run(plan: Plan) -> Start:
    """Start a run that does not exist yet.

    Raises:
        RunError: the run's folder is taken.
    """
    if plan.run.exists():
        raise RunError(
            f"{plan.run.root.uri}: a run of this name exists. "
            f"Continue it with --resume {plan.recipe.name}, or start another with name=OTHER."
        )
    return Start(None, plan.first_step)


def continued_run(plan: Plan) -> Start:
    """Continue a run at its newest checkpoint.

    Raises:
        RunError: there is no such run, or the recipe or the data would take it elsewhere.
    """
    previous = plan.run.read()
    if previous.recipe_digest != plan.resolved.digest():
        changed = differences(plan.run.recipe.read().decode(), plan.resolved.values())
        fixed = [change for change in changed if not change.startswith(FREE_TO_CHANGE)]
        raise RunError(
            f"{plan.run.root.uri}: the recipe changed since the run started, so it cannot continue exactly: "
            f"{'; '.join(fixed)}. Undo that, or start another run with name=OTHER."
        )
    if previous.index_digest != plan.index.digest:
        raise RunError(
            f"{plan.run.root.uri}: the training data in {plan.train.uri} changed since the run started, "
            "so it cannot continue exactly. Put it back, or start another run with name=OTHER."
        )
    first_step = plan.run.newest_step() or plan.first_step
    return Start(previous, first_step, done=first_step >= plan.steps and previous.status == "FINISHED")
