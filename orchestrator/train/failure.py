"""From what Ray raises to what a user can read."""

from __future__ import annotations

from pathlib import Path

from orchestrator.spec.errors import FuserayError
from orchestrator.stream.step_keys import BatchKeys, step_keys
from orchestrator.train.diagnosing import diagnose_error
from orchestrator.train.plan import Plan
from orchestrator.train.post_mortem import Failure, Tries, message


class TrainingError(FuserayError):
    """A run failed for good."""


def explain(error: BaseException, log: Path) -> TrainingError:
    """Return why a run failed, for its user; the whole traceback goes to the log.

    Args:
        error: what ended the run.
        log: a file that is made if need be.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    return TrainingError(message(Failure(diagnose_error(error), run="", log=str(log))))


def failure_of(
    error: BaseException, plan: Plan, step: int | None, tries: Tries, checkpoint: str, log: str, time: str
) -> Failure:
    """Return all that is to be said about a run that failed for good.

    Args:
        error: what ended its last attempt.
        plan: the run.
        step: the step that was being done; None when it was none.
        tries: attempts, and the budget that they used up.
        checkpoint: URI of the newest whole checkpoint; empty when there is none.
        log: where the logs are.
        time: when, in ISO 8601.
    """
    return Failure(
        diagnosis=diagnose_error(error, plan.recipe.scale.workers),
        run=plan.run.root.uri,
        log=log,
        step=step,
        micro_batches=() if step is None else _keys(plan, step),
        tries=tries,
        checkpoint=checkpoint,
        time=time,
    )


def _keys(plan: Plan, step: int) -> tuple[BatchKeys, ...]:
    """Return a step's keys in brief; none when they cannot be read, since the data may be what failed."""
    try:
        return step_keys(plan.reader, step)
    except FuserayError:
        return ()
