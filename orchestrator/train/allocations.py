"""How the C library should keep a worker's memory."""

from __future__ import annotations

LARGE_ALLOCATIONS = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024**3),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 1024**3),
}
"""Environment that keeps large CPU tensors on the heap between steps; returning them costs a fifth of a CPU step."""
