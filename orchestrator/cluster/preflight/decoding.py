"""Whether the CPUs that are left for reading keep the workers fed: an estimate."""

from __future__ import annotations

from orchestrator.cluster.findings import Finding, passed, warned

NAME = "data keeps up"

MARGIN = 1.2
"""Decoding should be so much faster than training: reading and sending take CPU time as well."""


def check_decoding(needed_per_s: float, cpus: float, cpu_s: float, workers: int, where: str) -> Finding:
    """Compare what the workers train on with what the CPUs decode.

    Args:
        needed_per_s: samples per second that the workers train on.
        cpus: that decode.
        cpu_s: CPU seconds of a sample.
        workers: how many train.
        where: the machine that decoding was timed on.
    """
    decoded_per_s = cpus / cpu_s
    found = (
        f"{workers} workers train on {needed_per_s:,.0f} samples/s; {cpus:,.0f} CPUs decode {decoded_per_s:,.0f} "
        f"({1000 * cpu_s:.1f} CPU-s per 1,000, timed on {where} with pictures of 500x375) (estimate)"
    )
    if decoded_per_s >= MARGIN * needed_per_s:
        return passed(NAME, found)
    lacking = MARGIN * needed_per_s * cpu_s - cpus
    fix = f"About {lacking:,.0f} more CPUs would do: let the cluster's file have more or larger machines without GPUs."
    if decoded_per_s >= needed_per_s:
        return warned(NAME, f"{found}, which is close", fix)
    return warned(NAME, f"{found}, so the workers will wait for data", fix)
