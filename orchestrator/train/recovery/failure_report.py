"""The report of a failed run: a message on the terminal, a file in the run's folder, and a tag in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.config.commands import command_line, resume_command
from orchestrator.config.errors import FuserayError
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import json_bytes
from orchestrator.stream.state import BatchKeys, step_keys
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.classify import diagnose_error
from orchestrator.train.recovery.diagnosis import Diagnosis, FailureKind
from orchestrator.train.recovery.policy import AttemptFailure, GiveUp

VERSION = 1
TAG = "failure"
"""Name of the MLflow tag."""

MAX_NAMED = 4
"""Workers, machines and micro-batches that are listed by name."""

MAX_TAG_CHARS = 400


@dataclass(frozen=True, slots=True)
class FailureReport:
    """Why a run failed, and what its user can do.

    Args:
        diagnosis: why.
        run: URI of the run's folder; empty when it has none yet.
        log: path of the log.
        step: the step at which it failed; None when it was not in a step, or is unknown.
        micro_batches: keys of that step's samples; none when it was not they, but an evaluation that failed.
        given_up: the number of attempts, and the budget that they used up.
        checkpoint: URI of the newest whole checkpoint; empty when there is none.
        time: when, in ISO 8601; may be empty.
        endpoint: address of the S3-compatible server that the run's folder is on.
    """

    diagnosis: Diagnosis
    run: str
    log: str
    step: int | None = None
    micro_batches: tuple[BatchKeys, ...] = ()
    given_up: GiveUp = field(default_factory=lambda: GiveUp(1))
    checkpoint: str = ""
    time: str = ""
    endpoint: str | None = None

    @property
    def cause(self) -> str:
        """What happened, in one sentence."""
        return ADVICE[self.diagnosis.kind].cause

    @property
    def fix(self) -> str:
        """What helps, in one sentence."""
        return ADVICE[self.diagnosis.kind].fix

    @property
    def next_command(self) -> str:
        """The command that continues the run; empty when there is nothing to continue."""
        return resume_command(self.run) if self.run else ""

    @property
    def trace_command(self) -> str:
        """The command that lists the step's samples; empty when no step is known."""
        if not self.run or self.step is None or self.diagnosis.held_out:
            return ""
        return command_line("trace", self.run, step=self.step, endpoint=self.endpoint)


class TrainingError(FuserayError):
    """A run failed and is not tried again."""


def report_failure(error: BaseException, last: AttemptFailure | None, plan: Plan, log: Path) -> FailureReport:
    """Return the report of a run that failed, and append the traceback to its log.

    Args:
        error: what ended it.
        last: the last failed attempt that was reported.
        plan: the run.
        log: a file, made if need be.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    failed = last if last is not None and last.given_up is not None else None
    step = failed.next_step if failed else None
    diagnosis = failed.diagnosis if failed else diagnose_error(error, plan.recipe.scale.max_workers)
    return FailureReport(
        diagnosis=diagnosis,
        run=plan.run.root.uri,
        log=str(log),
        step=step,
        micro_batches=() if step is None or diagnosis.held_out else _step_keys(plan, step),
        given_up=(failed.given_up if failed else None) or GiveUp(1),
        checkpoint=_newest_checkpoint(plan),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        endpoint=plan.run.root.endpoint,
    )


def training_error(failure: FailureReport, plan: Plan) -> TrainingError:
    """Write a failure into the run's folder and return it as an error for the terminal."""
    with suppress(StorageError):  # the message must not be lost because the store is what failed
        plan.run.post_mortem.write(json_bytes(record(failure)))
    return TrainingError(message(failure))


def _newest_checkpoint(plan: Plan) -> str:
    try:
        return next((folder.uri for folder in plan.run.committed_checkpoints()), "")
    except StorageError:
        return ""


def _step_keys(plan: Plan, step: int) -> tuple[BatchKeys, ...]:
    """Return a step's keys in brief; none when they cannot be read, since the data may be what failed."""
    try:
        return step_keys(plan.reader, step)
    except FuserayError:
        return ()


def message(failure: FailureReport) -> str:
    """Return the failure as lines for the terminal, the most important first."""
    return "\n".join([headline(failure), *(f"  {name:<8} {text}" for name, text in _lines(failure) if text)])


def headline(failure: FailureReport) -> str:
    """Return the failure in one line, without its error."""
    where = _where(failure)
    return f"The run failed{where and f' {where}'}: {failure.cause}"


def tag(failure: FailureReport) -> str:
    """Return the failure as the text of an MLflow tag: one line."""
    where = _where(failure)
    text = f"{failure.diagnosis.kind}{where and f' {where}'}: {failure.diagnosis.error.splitlines()[0]}"
    return text if len(text) <= MAX_TAG_CHARS else f"{text[: MAX_TAG_CHARS - 1]}…"


def record(failure: FailureReport) -> dict[str, Any]:
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
        "held_out": failure.diagnosis.held_out or None,
        "micro_batches": [asdict(keys) | {"first_keys": list(keys.first_keys)} for keys in failure.micro_batches],
        "tries": asdict(failure.given_up),
        "checkpoint": failure.checkpoint or None,
        "log": failure.log,
        "cause": failure.cause,
        "fix": failure.fix,
        "next": failure.next_command or None,
    }


def _lines(failure: FailureReport) -> Iterator[tuple[str, str]]:
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


def _where(failure: FailureReport) -> str:
    """Return step, workers and machines, as the end of "failed ..."."""
    ranks, hosts = failure.diagnosis.ranks, failure.diagnosis.hosts
    workers = f"on worker{'s' if len(ranks) > 1 else ''} {_listed(ranks)}" if ranks else ""
    machines = f"{'(' if workers else 'on '}{_listed(hosts)}{')' if workers else ''}" if hosts else ""
    step = f"at step {failure.step}" if failure.step is not None else ""
    return " ".join(part for part in (step, workers, machines) if part)


def _listed(values: Sequence[object]) -> str:
    names = [str(value) for value in values[:MAX_NAMED]]
    if len(values) > MAX_NAMED:
        return f"{', '.join(names)} and {len(values) - MAX_NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _samples(failure: FailureReport) -> str:
    if failure.diagnosis.held_out:
        held_out = failure.diagnosis.held_out
        command = command_line("shards", "verify", held_out, endpoint=failure.endpoint)
        return f"held-out ones, in {held_out}; `{command}` looks at each"
    batches = [batch.text() for batch in failure.micro_batches[:MAX_NAMED]]
    more = len(failure.micro_batches) - len(batches)
    return "; ".join(batches + ([f"and {more} more micro-batches"] if more > 0 else []))


def _tries(failure: FailureReport) -> str:
    given_up = failure.given_up
    if not failure.diagnosis.is_retryable and not given_up.budget:
        return f"{given_up.attempts}; another one would fail in the same way"
    if not given_up.budget:
        return str(given_up.attempts) if given_up.attempts > 1 else ""
    return f"{given_up.attempts}; {given_up.budget} ({given_up.allowed}) is used up"


@dataclass(frozen=True, slots=True)
class Advice:
    """The cause of a kind of failure and its fix, one sentence each."""

    cause: str
    fix: str


ADVICE: Mapping[FailureKind, Advice] = {
    FailureKind.USER_ERROR: Advice(
        "The run's own code raised an error, and would raise it again.",
        "Fix what the error names; the log has the traceback.",
    ),
    FailureKind.BAD_DATA: Advice(
        "Too many samples cannot be used, or a data set is not what it was.",
        "Find the bad samples with `fuseray shards verify URI` and in quarantine.jsonl and fix them, or allow a larger "
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
        "The cluster could not place the workers.",
        "Lower scale.workers or scale.cpus_per_worker, or add machines; `ray status` says what is free.",
    ),
    FailureKind.UNKNOWN: Advice(
        "The cause is unknown.",
        "The log has the traceback.",
    ),
}
