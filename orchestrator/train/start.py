"""Whether a run starts anew or continues, decided before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.config.loading import FREE_SECTIONS, FREE_STREAM_KEYS
from orchestrator.storage.run_folder import RunError, RunFile
from orchestrator.stream.state import StreamState, stream_changes
from orchestrator.train.checkpoints.loading import StoredState, newest_state
from orchestrator.train.plan import Plan
from orchestrator.train.recipe_file import differences

FREE_TO_CHANGE = (
    *(section if section == "name" else f"{section}." for section in FREE_SECTIONS),
    *(f"stream.{key}" for key in FREE_STREAM_KEYS),
)


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


def continued_run(plan: Plan, report: Callable[[str], None] = lambda _: None) -> Start:
    """Continue a run at its newest checkpoint.

    Args:
        plan: the plan.
        report: told about damaged checkpoints that are passed over.

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
    if previous.index_digest != plan.data.digest:
        raise RunError(
            f"{plan.run.root.uri}: the training data in {plan.data.places} changed since the run started, "
            "so it cannot continue exactly. Put it back, or start another run with name=OTHER."
        )
    newest = newest_state(plan.run, report)
    if newest is not None:
        _check_stream(plan, newest)
    first_step = newest.state.next_step if newest else plan.first_step
    return Start(previous, first_step, done=first_step >= plan.steps and previous.status == "FINISHED")


def _check_stream(plan: Plan, newest: StoredState) -> None:
    """Refuse to go on when the stream would not go on where the newest checkpoint says that it stopped."""
    if newest.state.stream is None:
        return
    before = StreamState.of(newest.state.stream)
    if changes := stream_changes(before, plan.stream_settings(), plan.reader, newest.state.next_step):
        raise RunError(
            f"{newest.place.uri}: the stream would not go on where it stopped: {'; '.join(changes[:3])}. "
            "Undo that, or start another run with name=OTHER."
        )
