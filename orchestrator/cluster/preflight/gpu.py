"""Whether this machine, as one of the cluster's, can train on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.cluster.accelerator import check_bfloat16, check_gpu, driver_version, read_cuda
from orchestrator.cluster.finding import Finding, warned
from orchestrator.cluster.libraries import attempt_import, check_import


def check_gpu_here(bfloat16: bool) -> Iterator[Finding]:
    """Yield what torch and the driver say; a machine without a GPU, such as a head, is no fault.

    Args:
        bfloat16: whether the recipe computes in it.
    """
    torch = attempt_import("torch")
    if torch.error is not None:
        yield check_import(torch)
        return
    cuda, driver = read_cuda(), driver_version()
    if driver is None and not cuda.devices:
        fix = "Nothing, if the machines with GPUs have the same software; Ray places the workers there."
        yield warned("gpu", "this machine has none, so CUDA and the driver are not checked", fix)
        return
    yield check_gpu(cuda, driver, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if bfloat16 and (finding := check_bfloat16(cuda.devices)) is not None:
        yield finding
