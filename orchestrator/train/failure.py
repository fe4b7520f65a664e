"""From what Ray raises to what a user can read."""

from __future__ import annotations

from pathlib import Path

from orchestrator.spec.errors import FuserayError
from orchestrator.train.diagnosing import diagnose_error
from orchestrator.train.post_mortem import Failure, message


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
