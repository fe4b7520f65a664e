"""Worker processes forked from one that has loaded torch and the workload, which take seconds of every other start."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import start_processes

LOADED = (
    "orchestrator.train.step",
    "orchestrator.train.checkpoints.manager",
    "orchestrator.train.parallel.fsdp",
    "workloads.albef.workload",
)


def run_in_workers(function: Callable[..., None], arguments: tuple[Any, ...], workers: int) -> None:
    """Run a function in several processes, as `torch.multiprocessing.spawn` does.

    Args:
        function: called with the process's rank and the arguments.
        arguments: the further arguments.
        workers: how many processes.

    Raises:
        torch.multiprocessing.ProcessException: a process failed.
    """
    multiprocessing.set_forkserver_preload(list(LOADED))
    start_processes(function, arguments, nprocs=workers, start_method="forkserver")
