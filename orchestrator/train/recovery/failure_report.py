"""What a run that failed for good says about it: on the terminal, in its folder, and in MLflow. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.stream.state import BatchKeys
from orchestrator.train.recovery.failure_kind import Diagnosis, FailureKind

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


# One sentence on the cause of each kind of failure, and one on what to do about it.


@dataclass(frozen=True, slots=True)
class Advice:
    """What happened and what helps, one sentence each."""

    cause: str
    fix: str


ADVICE: Mapping[FailureKind, Advice] = {
    FailureKind.USER_ERROR: Advice(
        "The run's own code raised an error, and would raise it again.",
        "Mend what the error names; the log has the traceback.",
    ),
    FailureKind.BAD_DATA: Advice(
        "Too many samples cannot be used, or a data set is not what it was.",
        "Find the bad samples with `fuseray shards verify` and in quarantine.jsonl and mend them, or allow a larger "
        "stream.max_bad_share.",
    ),
    FailureKind.OUT_OF_MEMORY: Advice(
        "A machine ran out of memory, and a process that used much of it was ended.",
        "Lower stream.prefetch, stream.decode_threads or scale.object_store_mb, raise scale.cpus_per_worker so that "
        "fewer workers share a machine, or use machines with more memory.",
    ),
    FailureKind.OUT_OF_GPU_MEMORY: Advice(
        "A GPU ran out of memory.",
        "Set precision to bfloat16, or scale.parallel to sharded with more workers; or start another run with a lower "
        "batch.micro_batch_size and more batch.micro_batches.",
    ),
    FailureKind.GPU_FAULT: Advice(
        "A GPU is faulty.",
        "Take the machine out of the cluster; `nvidia-smi -q` and dmesg on it say more.",
    ),
    FailureKind.WORKER_LOST: Advice(
        "A process of the run ended without an error of its own.",
        "dmesg on its machine says whether the kernel ended it for want of memory, and the log what it did last.",
    ),
    FailureKind.NODE_LOST: Advice(
        "A machine of the cluster died, or its connection did.",
        "Continue when the machines are there; with fewer of them and a lower scale.workers the results are the same.",
    ),
    FailureKind.PREEMPTED: Advice(
        "The cloud took a machine back.",
        "Continue when there are machines again, with a lower scale.workers if there are fewer, or use some that are "
        "not taken back.",
    ),
    FailureKind.HUNG: Advice(
        "A worker made no progress for too long while the others waited.",
        "The log says what it did last; a slow store, a stuck device and a network that drops packets are common.",
    ),
    FailureKind.NOT_A_NUMBER: Advice(
        "The loss or a gradient became infinite or not a number.",
        "Look at the step's samples, lower optimizer.learning_rate, set optimizer.clip_norm, or lengthen "
        "schedule.warmup_steps.",
    ),
    FailureKind.STORAGE: Advice(
        "Storage could not be read or written.",
        "`fuseray doctor` checks credentials, the address and free space of storage.uri and tracking.uri.",
    ),
    FailureKind.NO_START: Advice(
        "The cluster could not give the workers a place.",
        "Lower scale.workers or scale.cpus_per_worker, or add machines; `ray status` says what is free.",
    ),
    FailureKind.UNKNOWN: Advice(
        "It is not known what happened.",
        "The log has the traceback.",
    ),
}
