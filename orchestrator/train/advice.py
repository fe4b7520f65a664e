"""One sentence on the cause of each kind of failure, and one on what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.train.failure_kind import FailureKind


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
