"""What the machine could do at best: its GEMM rate, and a GPU's rated peak."""

from __future__ import annotations

from time import perf_counter

import torch

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "V100": 125.0}
"""Rated dense peak in bfloat16 (V100: float16) by a part of the GPU's name, from NVIDIA's data sheets (SXM)."""


def gemm_gflops(device: torch.device, size: int = 2048, repeats: int = 5) -> float:
    """Return the best rate of a few float32 products of two square matrices, in GFLOP/s."""
    left, right = torch.randn(2, size, size, device=device).unbind()
    out = torch.empty(size, size, device=device)
    return max(2 * size**3 / _seconds(device, left, right, out) / 1e9 for _ in range(repeats))


def peak_gflops(device: torch.device) -> float | None:
    """Return a GPU's rated peak in bfloat16, in GFLOP/s; None for a CPU and for GPUs that are not listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e3 * peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(device: torch.device, left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    synchronize(device)
    start = perf_counter()
    torch.mm(left, right, out=out)
    synchronize(device)
    return perf_counter() - start
