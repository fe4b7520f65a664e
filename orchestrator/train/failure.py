"""From what Ray raises to what a user can read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ray.train import TrainingFailedError

from orchestrator.spec.errors import FuserayError
from workloads.contract import WorkloadError


class TrainingError(FuserayError):
    """A run failed for good."""


def explain(error: BaseException, log: Path) -> TrainingError:
    """Return the most telling cause of a failed run; the whole traceback goes to the log.

    An error that names its fix beats one that merely happened, such as a peer's broken connection.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, FuserayError | WorkloadError):
            return TrainingError(f"{cause}\nThe log is {log}.")
    first = next((cause for cause in causes if "by peer" not in str(cause)), error)
    return TrainingError(f"{type(first).__name__}: {_first_line(first)}\nThe traceback is in {log}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the innermost error of every worker, worker 0's first, or of the controller."""
    if error is None:
        return
    failures = getattr(error, "worker_failures", None)
    if isinstance(failures, dict):
        for _, failure in sorted(failures.items()):
            yield from _causes(failure)
        return
    inner = (
        getattr(error, "_base_exc", None) or getattr(error, "controller_failure", None) or getattr(error, "cause", None)
    )
    if not isinstance(error, TrainingFailedError) and inner is None:
        yield error
    yield from _causes(inner if isinstance(inner, BaseException) else None)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
