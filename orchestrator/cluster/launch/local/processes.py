"""The processes of a cluster on this machine: found by a mark in their environment, which children inherit."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

from orchestrator.cluster.errors import ClusterError

MARK = "FUSERAY_LOCAL_CLUSTER"
"""Variable that holds the cluster's temporary folder in each of its processes."""

LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long processes may take.

    Args:
        start_s: to start and answer.
        end_s: to end when they are asked to.
        kill_s: to be gone when they are killed.
    """

    start_s: float = 120.0
    end_s: float = 5.0
    kill_s: float = 10.0


def members(mark: str) -> set[psutil.Process]:
    """Return the living processes of a cluster, without this one: those with the mark, and their descendants."""
    parents: dict[int, int] = {}
    living: dict[int, psutil.Process] = {}
    found: set[int] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            living[process.pid] = process
            parents[process.pid] = process.ppid()
            if process.environ().get(MARK) == mark:
                found.add(process.pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {living[pid] for pid in found - {os.getpid()}}


def end_processes(mark: str, patience: Patience) -> None:
    """End all processes of a cluster: ask them, then kill what is left.

    Raises:
        ClusterError: some cannot be killed.
    """
    known = members(mark)
    for process in known:
        with suppress(psutil.Error):
            process.terminate()
    left = _wait(mark, known, patience.end_s, kill=False)
    left = left and _wait(mark, left, patience.kill_s, kill=True)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise ClusterError(f"these processes of the cluster do not end even when killed: {pids}; see what holds them.")


def _wait(mark: str, known: set[psutil.Process], seconds: float, kill: bool) -> set[psutil.Process]:
    """Wait for processes to be gone; return those that are not, with what they started meanwhile."""
    until_s = time.monotonic() + seconds
    while left := {process for process in known if _lives(process)} | members(mark):
        for process in left if kill else ():
            with suppress(psutil.Error):
                process.kill()
        if time.monotonic() > until_s:
            break
        known = left
        time.sleep(LOOK_S)
    return left


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
