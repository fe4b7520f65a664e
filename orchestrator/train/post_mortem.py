"""What a run that failed for good says about it: on the terminal, in its folder, and in MLflow. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.stream.state import BatchKeys
from orchestrator.train.advice import ADVICE
from orchestrator.train.failure_kind import Diagnosis

VERSION = 1
TAG = "failure"
"""Name of the MLflow tag."""

MOST_NAMED = 4
"""Workers, machines and micro-batches that are named one by one."""

LONGEST_TAG = 400


@dataclass(frozen=True, slots=True)
class Tries:
    """How often a run was tried.

    Args:
        attempts: how many there were, the last one included.
        budget: recipe key of the budget that ran out; empty when it was not a matter of one.
        allowed: further attempts that this budget allows.
    """

    attempts: int
    budget: str = ""
    allowed: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed for good.

    Args:
        diagnosis: why.
        run: URI of the run's folder; empty when it has none yet.
        log: where the logs are.
        step: the step at which it happened; None when it was not in a step, or is not known.
        micro_batches: keys of that step's samples.
        tries: attempts, and the budget that they used up.
        checkpoint: URI of the newest whole checkpoint; empty when there is none.
        time: when, in ISO 8601; empty when it does not matter.
    """

    diagnosis: Diagnosis
    run: str
    log: str
    step: int | None = None
    micro_batches: tuple[BatchKeys, ...] = ()
    tries: Tries = Tries(1)
    checkpoint: str = ""
    time: str = ""

    @property
    def cause(self) -> str:
        """One sentence on what happened."""
        return ADVICE[self.diagnosis.kind].cause

    @property
    def fix(self) -> str:
        """One sentence on what helps."""
        return ADVICE[self.diagnosis.kind].fix

    @property
    def next_command(self) -> str:
        """The command that continues the run; empty when there is nothing to continue."""
        return f"fuseray train RECIPE --resume {self.run}" if self.run else ""

    @property
    def trace_command(self) -> str:
        """The command that lists the step's samples; empty when no step is known."""
        return f"fuseray trace {self.run} --step {self.step}" if self.run and self.step is not None else ""


def message(failure: Failure) -> str:
    """Return the failure as lines for the terminal, the most important first."""
    return "\n".join([headline(failure), *(f"  {name:<8} {text}" for name, text in _lines(failure) if text)])


def headline(failure: Failure) -> str:
    """Return the failure in one line, without its error."""
    place = _place(failure)
    return f"The run failed{place and f' {place}'}: {failure.cause}"


def tag(failure: Failure) -> str:
    """Return the failure as the text of an MLflow tag: one line."""
    place = _place(failure)
    text = f"{failure.diagnosis.kind}{place and f' {place}'}: {failure.diagnosis.error.splitlines()[0]}"
    return text if len(text) <= LONGEST_TAG else f"{text[: LONGEST_TAG - 1]}…"


def record(failure: Failure) -> dict[str, Any]:
    """Return the failure as plain JSON values, for the run's folder."""
    return {
        "version": VERSION,
        "time": failure.time,
        "kind": failure.diagnosis.kind.value,
        "retryable": failure.diagnosis.is_retryable,
        "error": failure.diagnosis.error,
        "workers": list(failure.diagnosis.ranks),
        "hosts": list(failure.diagnosis.hosts),
        "step": failure.step,
        "micro_batches": [asdict(one) | {"first_keys": list(one.first_keys)} for one in failure.micro_batches],
        "tries": asdict(failure.tries),
        "checkpoint": failure.checkpoint or None,
        "log": failure.log,
        "cause": failure.cause,
        "fix": failure.fix,
        "next": failure.next_command or None,
    }


def _lines(failure: Failure) -> Iterator[tuple[str, str]]:
    first, *more = failure.diagnosis.error.splitlines()
    yield "error", first
    yield from (("", line) for line in more)
    yield "fix", failure.fix
    yield "samples", _samples(failure)
    yield "", failure.trace_command and f"all of them: {failure.trace_command}"
    yield "tries", _tries(failure)
    yield (
        "saved",
        failure.checkpoint or (failure.run and "no whole checkpoint yet; the run starts again from its first step"),
    )
    yield "next", failure.next_command
    yield "log", failure.log


def _place(failure: Failure) -> str:
    """Return where it happened, as the end of "failed ..."."""
    found = failure.diagnosis
    workers = f"on worker{'s' if len(found.ranks) > 1 else ''} {_named(found.ranks)}" if found.ranks else ""
    hosts = f"{'(' if workers else 'on '}{_named(found.hosts)}{')' if workers else ''}" if found.hosts else ""
    step = f"at step {failure.step}" if failure.step is not None else ""
    return " ".join(part for part in (step, workers, hosts) if part)


def _named(things: Sequence[object]) -> str:
    names = [str(thing) for thing in things[:MOST_NAMED]]
    if len(things) > MOST_NAMED:
        return f"{', '.join(names)} and {len(things) - MOST_NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _samples(failure: Failure) -> str:
    batches = [batch.text() for batch in failure.micro_batches[:MOST_NAMED]]
    more = len(failure.micro_batches) - len(batches)
    return "; ".join(batches + ([f"and {more} more micro-batches"] if more > 0 else []))


def _tries(failure: Failure) -> str:
    tries = failure.tries
    if not failure.diagnosis.is_retryable and not tries.budget:
        return f"{tries.attempts}; another one would fail in the same way"
    if not tries.budget:
        return str(tries.attempts) if tries.attempts > 1 else ""
    return f"{tries.attempts}; {tries.budget} ({tries.allowed}) is used up"
