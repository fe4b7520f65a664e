"""What explains a failed attempt, told from errors as Ray Train hands them over."""

from __future__ import annotations

import errno

import pytest
import torch
from ray import cloudpickle
from ray import exceptions as of_ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.train import PreemptionInfo
from ray.train.v2._internal import exceptions as of_train
from ray.train.v2.api.exceptions import ControllerError, NCCLHangError, PreemptionError, WorkerGroupError
from torch import distributed

from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.storage.retry import Cause, StorageError
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.loader import StreamEndedError
from orchestrator.train.recovery.classify import diagnose_error
from orchestrator.train.recovery.diagnosis import BadDataError, Diagnosis, FailureKind, NotANumberError, RetryBudget
from workloads.contract import WorkloadError

KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
NODE_GONE = (
    "The actor died because its node has died. Node Id: fced2207\n"
    "\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"
)
PINNED_TO_IT = (
    "The actor is not schedulable: The node specified via NodeAffinitySchedulingStrategy doesn't exist any more or is "
    "infeasible, and soft=False was specified."
)
LOW = "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: b0c1) was 9"
RESET = "[/pytorch/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:56192: Connection reset by peer. Check"
TIMED_OUT = "[/pytorch/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation"
WATCHDOG = "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9) ran for 600000 milliseconds"
NOT_IMPORTED = (
    "The actor with name Channel failed to import on the worker. This may be because needed library dependencies are "
    "not installed in the worker environment:\n\nTraceback (most recent call last):\n  File 'socket closed.py', line 1"
    "\n"
    "ModuleNotFoundError: No module named 'mine'\n"
)
ENDED = StreamEndedError("worker 2 expected micro-batch 7, and the stream has ended")


def died(message: str, reason: NodeDeathInfo.Reason.ValueType | None = None) -> of_ray.ActorDiedError:
    """The error of an actor that is gone, made by Ray from what it knows about the end."""
    info = None if reason is None else NodeDeathInfo(reason=reason)
    context = ActorDiedErrorContext(
        error_message=message, actor_id=b"a" * 16, node_ip_address="10.0.0.7", class_name="Worker", node_death_info=info
    )
    return of_ray.ActorDiedError(cause=context)


def lost(failure: Exception) -> of_train.WorkerHealthCheckFailedError:
    """What Ray Train makes of a worker that no longer answers."""
    about = "Worker(\n  metadata=ActorMetadata(\n    hostname='node-7',\n    node_ip='10.0.0.7',\n  ),\n)"
    return of_train.WorkerHealthCheckFailedError(f"A worker health check failed.\nWorker info: {about}", failure)


def in_task(error: Exception) -> of_ray.RayTaskError:
    """An error that a task raised, as the process that waited for the task gets it."""
    return of_ray.RayTaskError("read", f"Traceback\n{error!r}", error, "title", 1, "10.0.0.8").as_instanceof_cause()


def unmade(error: Exception) -> of_ray.ActorDiedError:
    """The error of an actor whose constructor raised."""
    return of_ray.ActorDiedError(
        of_ray.RayTaskError("__init__", f"Traceback\n{error!r}", error, "title", 1, "10.0.0.8")
    )


def diagnosed(*failures: Exception | None, workers: int | None = None) -> Diagnosis:
    """The diagnosis of the workers' errors, by rank, after the way through Ray's processes."""
    found = {rank: failure for rank, failure in enumerate(failures) if failure is not None}
    error = cloudpickle.loads(cloudpickle.dumps(WorkerGroupError("workers failed", found)))
    return diagnose_error(error, workers)


PREEMPTED = lost(died("Actor died by preemption.", NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("odd value"), FailureKind.USER_ERROR),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FailureKind.USER_ERROR),
        (FileNotFoundError("no such file"), FailureKind.USER_ERROR),
        (WorkloadError("the weights do not fit"), FailureKind.USER_ERROR),
        (ValueError("closed by peer"), FailureKind.USER_ERROR),
        (BadDataError("5 of 9 samples are bad"), FailureKind.BAD_DATA),
        (DataSetError("the data set changed"), FailureKind.BAD_DATA),
        (NotANumberError("the loss is nan"), FailureKind.NOT_A_NUMBER),
        (FloatingPointError("overflow"), FailureKind.NOT_A_NUMBER),
        (StorageError("s3://b: cannot be read: it does not exist."), FailureKind.STORAGE),
        (OSError(errno.ENOSPC, "No space left on device"), FailureKind.STORAGE),
        (of_ray.OutOfDiskError("the disk is full"), FailureKind.STORAGE),
        (of_ray.OutOfMemoryError(LOW), FailureKind.OUT_OF_MEMORY),
        (of_ray.ObjectStoreFullError("full"), FailureKind.OUT_OF_MEMORY),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), FailureKind.OUT_OF_GPU_MEMORY),
        (RuntimeError("CUDA error: out of memory"), FailureKind.OUT_OF_GPU_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), FailureKind.OUT_OF_GPU_MEMORY),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), FailureKind.GPU_FAULT),
        (RuntimeError(NOT_IMPORTED), FailureKind.USER_ERROR),
        (unmade(RuntimeError(NOT_IMPORTED)), FailureKind.USER_ERROR),
        (unmade(of_ray.RaySystemError("No module named 'mine'")), FailureKind.USER_ERROR),
        (unmade(ConnectionResetError(104, "Connection reset by peer")), FailureKind.WORKER_LOST),
        (RuntimeError(RESET), FailureKind.WORKER_LOST),
        (distributed.DistNetworkError("The client socket has failed"), FailureKind.WORKER_LOST),
        (distributed.DistBackendError("NCCL error: remote process exited"), FailureKind.WORKER_LOST),
        (ConnectionResetError(104, "Connection reset by peer"), FailureKind.WORKER_LOST),
        (of_ray.OwnerDiedError("a" * 56, None, "x"), FailureKind.WORKER_LOST),
        (died(KILLED), FailureKind.WORKER_LOST),
        (lost(died(KILLED)), FailureKind.WORKER_LOST),
        (lost(of_ray.ActorUnavailableError("rpc failed", None)), FailureKind.WORKER_LOST),
        (lost(died(NODE_GONE)), FailureKind.NODE_LOST),
        (of_ray.NodeDiedError("node b0c1 is gone"), FailureKind.NODE_LOST),
        (of_ray.ActorUnschedulableError(PINNED_TO_IT), FailureKind.NODE_LOST),
        (lost(of_ray.OutOfMemoryError(LOW)), FailureKind.OUT_OF_MEMORY),
        (PREEMPTED, FailureKind.PREEMPTED),
        (RuntimeError(TIMED_OUT), FailureKind.HUNG),
        (distributed.DistBackendError(WATCHDOG), FailureKind.HUNG),
        (distributed.DistStoreError("wait timeout after 300000ms, keys: /default_pg"), FailureKind.HUNG),
        (of_ray.GetTimeoutError("Get timed out"), FailureKind.HUNG),
        (of_train.WorkerHealthCheckTimeoutError("hanging for 600 seconds"), FailureKind.HUNG),
        (of_train.BroadcastCollectiveTimeoutError(9.0, [0], 9.0), FailureKind.HUNG),
        (of_ray.RaySystemError("odd"), FailureKind.UNKNOWN),
    ],
    ids=lambda value: f"{type(value).__name__}: {str(value)[:30]}" if isinstance(value, Exception) else None,
)
def test_one_error_alone(error: Exception, kind: FailureKind) -> None:
    assert diagnosed(error).kind is kind


@pytest.mark.parametrize(
    ("kind", "budget"),
    [
        (ValueError("odd"), RetryBudget.NONE),
        (DataSetError("changed"), RetryBudget.NONE),
        (NotANumberError("nan"), RetryBudget.NONE),
        (StorageError(f"s3://b: cannot be read: {Cause.DENIED.value} (no)."), RetryBudget.NONE),
        (ENDED, RetryBudget.MACHINE_FAULTS),
        (
            StorageError(f"s3://b: cannot be read after 8 attempts: {Cause.INTERRUPTED.value} (x)."),
            RetryBudget.MACHINE_FAULTS,
        ),
        (lost(died(KILLED)), RetryBudget.MACHINE_FAULTS),
        (lost(died(NODE_GONE)), RetryBudget.MACHINE_FAULTS),
        (of_ray.ActorUnschedulableError(PINNED_TO_IT), RetryBudget.MACHINE_FAULTS),
        (RuntimeError(RESET), RetryBudget.MACHINE_FAULTS),
        (of_ray.OutOfMemoryError(LOW), RetryBudget.MACHINE_FAULTS),
        (of_train.WorkerHealthCheckTimeoutError("hangs"), RetryBudget.MACHINE_FAULTS),
        (of_ray.RaySystemError("odd"), RetryBudget.MACHINE_FAULTS),
        (PREEMPTED, RetryBudget.PREEMPTIONS),
    ],
)
def test_what_may_pass_is_tried_again_on_its_budget(kind: Exception, budget: RetryBudget) -> None:
    found = diagnosed(kind)
    assert found.budget is budget
    assert found.is_retryable is (budget is not RetryBudget.NONE)


@pytest.mark.parametrize("consequence", [RuntimeError(RESET), RuntimeError(TIMED_OUT), died(KILLED), ENDED])
@pytest.mark.parametrize(
    "cause",
    [
        ValueError("odd value"),
        RuntimeError("shapes cannot be multiplied"),
        in_task(ValueError("odd value")),
        in_task(StorageError("s3://b: access was denied")),
        StorageError("s3://b: access was denied"),
        torch.OutOfMemoryError("CUDA out of memory"),
        lost(died(KILLED)),
        lost(of_ray.OutOfMemoryError(LOW)),
        PREEMPTED,
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_cause_beats_its_consequences_on_other_workers(cause: Exception, consequence: Exception) -> None:
    found = diagnosed(consequence, cause, consequence)
    alone = diagnosed(None, cause)
    assert found == alone
    assert found.ranks == (1,)


@pytest.mark.parametrize(
    ("first", "second", "kind", "rank"),
    [
        (lost(died(KILLED)), ValueError("odd value"), FailureKind.USER_ERROR, 1),
        (lost(died(KILLED)), RuntimeError("something broke"), FailureKind.WORKER_LOST, 0),
        (lost(died(KILLED)), StorageError("disk full"), FailureKind.STORAGE, 1),
        (RuntimeError(RESET), RuntimeError(TIMED_OUT), FailureKind.HUNG, None),
        (ValueError("odd value"), PREEMPTED, FailureKind.PREEMPTED, 1),
        (of_train.WorkerHealthCheckTimeoutError("hangs"), RuntimeError(TIMED_OUT), FailureKind.HUNG, 0),
        (KeyError("first"), ValueError("second"), FailureKind.USER_ERROR, 0),
    ],
)
def test_of_two_causes_the_one_that_explains_the_other(
    first: Exception, second: Exception, kind: FailureKind, rank: int | None
) -> None:
    for failures in ((first, second), (first, None, second)):
        found = diagnosed(*failures)
        assert found.kind is kind
        if rank is not None:
            assert found.ranks[0] == (rank if failures[1] else 2 * rank)


def test_a_fault_of_all_workers_is_blamed_on_all() -> None:
    assert diagnosed(*[NotANumberError("the loss is nan")] * 3).ranks == (0, 1, 2)


def test_who_waited_in_vain_is_not_to_blame() -> None:
    waiting = RuntimeError(TIMED_OUT)
    assert diagnosed(waiting, None, waiting, workers=4).ranks == (1, 3)
    assert diagnosed(waiting, None, waiting).ranks == ()
    assert diagnosed(waiting, waiting, workers=2).ranks == ()
    named = in_task(of_train.BroadcastCollectiveTimeoutError(9.0, [2], 9.0))
    assert diagnosed(named, named, None, None, workers=4).ranks == (2,)


def test_who_lost_a_connection_is_not_to_blame() -> None:
    found = diagnosed(RuntimeError(RESET), RuntimeError(RESET), workers=3)
    assert (found.kind, found.ranks, found.hosts) == (FailureKind.WORKER_LOST, (), ())


@pytest.mark.parametrize(
    ("error", "host"),
    [
        (lost(died(KILLED)), "node-7"),
        (of_ray.OutOfMemoryError(LOW), "10.0.0.7"),
        (of_ray.NodeDiedError("gone"), None),
        (ValueError("(IP: 10.9.9.9, ID: x)"), None),
    ],
)
def test_the_machine_is_named_where_ray_names_it(error: Exception, host: str | None) -> None:
    assert diagnosed(error).hosts == (() if host is None else (host,))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("odd value\nmore"), "ValueError: odd value"),
        (ValueError(), "ValueError: no message"),
        (FuserayError("one fault\nanother fault"), "one fault\nanother fault"),
        (in_task(KeyError("name")), "KeyError: 'name'"),
        (
            lost(unmade(RuntimeError(NOT_IMPORTED))),
            "ModuleNotFoundError: No module named 'mine' (when a worker imported the actor with name Channel)",
        ),
        (lost(died(NODE_GONE)), "ActorDiedError: The actor died because its node has died. Node Id: fced2207"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}…"),
        (ValueError("GET https://b/k?X-Amz-Signature=abcdef0123 failed"), "GET https://b/k?X-Amz-Signature=*** failed"),
    ],
)
def test_the_error_is_told_in_short_and_without_secrets(error: Exception, said: str) -> None:
    assert diagnosed(error).error.removeprefix("ValueError: ") == said.removeprefix("ValueError: ")


def test_errors_of_the_controller() -> None:
    timeout = diagnose_error(ControllerError(of_train.WorkerGroupStartupTimeoutError(4)))
    assert (timeout.kind, timeout.budget) == (FailureKind.NO_START, RetryBudget.MACHINE_FAULTS)
    small = diagnose_error(ControllerError(of_train.InsufficientClusterResourcesError("4 GPUs; there are 2")))
    assert (small.kind, small.is_retryable) == (FailureKind.NO_START, False)
    odd = diagnose_error(ControllerError(KeyError("odd")))
    assert (odd.kind, odd.is_retryable, odd.error) == (FailureKind.UNKNOWN, False, "KeyError: 'odd'")
    assert diagnose_error(ControllerError(in_task(ConfigError("too few CPUs")))).error == "too few CPUs"


def test_errors_that_are_not_of_workers() -> None:
    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"b0c1": [2, 3]})
    found = diagnose_error(PreemptionError(info))
    assert (found.kind, found.ranks, found.hosts) == (FailureKind.PREEMPTED, (2, 3), ("b0c1",))
    assert diagnose_error(NCCLHangError("no progress", {})).kind is FailureKind.HUNG
    assert diagnose_error(WorkerGroupError("nobody said why", {})).kind is FailureKind.UNKNOWN
    assert diagnose_error(ConfigError("scale.workers: 64 workers")).kind is FailureKind.NO_START
    assert diagnose_error(FuserayError("no weights")).kind is FailureKind.USER_ERROR
    assert diagnose_error(TypeError("odd")).kind is FailureKind.UNKNOWN
