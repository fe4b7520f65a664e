"""Checks of NVIDIA GPUs: whether torch can use those of the driver, and whether they fit a recipe's precision."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.doctor.python_env import attempt_import, check_import
from orchestrator.cluster.findings import Finding, failed, passed, warned


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU that torch sees.

    Args:
        name: its name.
        architecture: its CUDA architecture, for example "sm_90".
        supported: whether this build of torch has code for it.
        bfloat16: whether its hardware supports bfloat16.
    """

    name: str
    architecture: str
    supported: bool
    bfloat16: bool


@dataclass(frozen=True, slots=True)
class Cuda:
    """The state of CUDA in torch.

    Args:
        built_for: the CUDA version of this build of torch; None for a CPU build.
        devices: the usable GPUs.
        reason: torch's warning when there are none; may be empty.
    """

    built_for: str | None
    devices: tuple[Device, ...] = ()
    reason: str = ""


def read_cuda() -> Cuda:
    """Return the state of CUDA in torch."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    reason = str(caught[0].message).splitlines()[0] if caught else ""
    devices = tuple(map(_device, range(torch.cuda.device_count()))) if available else ()
    return Cuda(torch.version.cuda, devices, reason)


def driver_version(proc: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Return the version of the NVIDIA driver, None when there is none."""
    if not proc.is_file():
        return None
    match = re.search(r"\d+\.\d+(\.\d+)?", proc.read_text())
    return match.group() if match else "unknown"


def check_gpu(cuda: Cuda, driver: str | None, visible: str | None) -> Finding:
    """Check that torch can use the machine's GPUs.

    Args:
        cuda: the state of CUDA in torch.
        driver: version of the NVIDIA driver.
        visible: the environment variable CUDA_VISIBLE_DEVICES.
    """
    if cuda.devices:
        return _check_devices(cuda, driver)
    if driver is None:
        return passed("gpu", "no NVIDIA GPU; training runs on CPUs")
    if visible is not None and visible.strip() in ("", "-1"):
        fix = "Unset it to train on GPUs."
        return warned("gpu", f"driver {driver}, but CUDA_VISIBLE_DEVICES={visible!r} hides every GPU", fix)
    if cuda.built_for is None:
        fix = "Install torch and torchvision from PyPI, whose builds have CUDA: make install."
        return failed("gpu", f"driver {driver}, but this torch is a build for CPUs only", fix)
    summary = f"driver {driver}, but torch for CUDA {cuda.built_for} cannot use a GPU. {cuda.reason}".rstrip()
    fix = f"Update the NVIDIA driver to one for CUDA {cuda.built_for}, and give containers their GPUs (--gpus all)."
    return failed("gpu", summary, fix)


def check_bfloat16(devices: Sequence[Device]) -> Finding | None:
    """Check that all GPUs support bfloat16; None when there is no GPU."""
    if not devices:
        return None
    without = sorted({device.name for device in devices if not device.bfloat16})
    if not without:
        return passed("bfloat16", "supported by every GPU")
    return warned("bfloat16", f"not supported by {', '.join(without)}", "Keep the recipe's precision at float32.")


def _check_devices(cuda: Cuda, driver: str | None) -> Finding:
    names = ", ".join(sorted({device.name for device in cuda.devices}))
    summary = f"{len(cuda.devices)} x {names}, CUDA {cuda.built_for}, driver {driver or 'unknown'}"
    without = sorted({device.architecture for device in cuda.devices if not device.supported})
    if without:
        fix = "Install a torch with code for it, or hide that GPU with CUDA_VISIBLE_DEVICES."
        return failed("gpu", f"{summary}; this torch has no code for {', '.join(without)}", fix)
    return passed("gpu", summary)


def has_code(compiled: Sequence[str], capability: tuple[int, int]) -> bool:
    """Return whether code for one of some architectures runs on a GPU.

    Args:
        compiled: the architectures in torch's notation: code for "sm_80" runs on GPUs of the same major version from
            8.0 on; "compute_80" is PTX, which is compiled for any newer GPU.
        capability: the GPU's compute capability, (major, minor).
    """
    for architecture in compiled:
        kind, _, digits = architecture.partition("_")
        number = re.match(r"\d+", digits)
        if number is None:
            continue
        target = divmod(int(number.group()), 10)
        if target <= capability and (kind == "compute" or target[0] == capability[0]):
            return True
    return False


def _device(index: int) -> Device:
    import torch

    major, minor = torch.cuda.get_device_capability(index)
    supported = has_code(torch.cuda.get_arch_list(), (major, minor))
    return Device(torch.cuda.get_device_name(index), f"sm_{major}{minor}", supported, bfloat16=major >= 8)


def check_gpu_here(bfloat16: bool) -> Iterator[Finding]:
    """Yield the findings about this machine's GPUs; a machine without a GPU, such as a head, is only a warning.

    Args:
        bfloat16: whether the recipe computes in bfloat16.
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
