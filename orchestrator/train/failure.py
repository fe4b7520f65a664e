"""From what ended a run to what its user reads, and to what stays in its folder."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.config.errors import FuserayError
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import json_bytes
from orchestrator.stream.state import BatchKeys, step_keys
from orchestrator.train.diagnosing import diagnose_error
from orchestrator.train.plan import Plan
from orchestrator.train.post_mortem import Failure, Tries, message, record
from orchestrator.train.recovery.incidents import Fault


class TrainingError(FuserayError):
    """A run failed for good."""


def failure_of(error: BaseException, fault: Fault | None, plan: Plan, log: Path) -> Failure:
    """Return all that is to be said about a run that failed for good.

    Args:
        error: what ended it.
        fault: the last fault that was reported of its workers.
        plan: the run.
        log: a file that is made if need be, and gets the whole traceback.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    given_up = fault if fault is not None and fault.given_up is not None else None
    step = given_up.next_step if given_up else None
    return Failure(
        diagnosis=given_up.diagnosis if given_up else diagnose_error(error, plan.recipe.scale.most_workers),
        run=plan.run.root.uri,
        log=str(log),
        step=step,
        micro_batches=() if step is None else _keys(plan, step),
        tries=(given_up.given_up if given_up else None) or Tries(1),
        checkpoint=_newest_checkpoint(plan),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def explained(failure: Failure, plan: Plan) -> TrainingError:
    """Write a failure into the run's folder and return it as an error for the terminal."""
    with suppress(StorageError):  # the message must not be lost because the store is what failed
        plan.run.post_mortem.write(json_bytes(record(failure)))
    return TrainingError(message(failure))


def _newest_checkpoint(plan: Plan) -> str:
    try:
        return next((place.uri for place in plan.run.committed_checkpoints()), "")
    except StorageError:
        return ""


def _keys(plan: Plan, step: int) -> tuple[BatchKeys, ...]:
    """Return a step's keys in brief; none when they cannot be read, since the data may be what failed."""
    try:
        return step_keys(plan.reader, step)
    except FuserayError:
        return ()
