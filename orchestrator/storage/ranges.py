"""Byte ranges of many files at once: neighbours in one request, requests side by side, answers checked."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from orchestrator.storage.location import Location
from orchestrator.storage.object_cache import read_object
from orchestrator.storage.retry import retrying

OBJECT_STORE_READERS = 32
"""Requests of this process to object stores under way at once."""

LOCAL_GAP_BYTES = 32 * 1024
"""Gap up to which two ranges of a local file are read together: reading through costs less than another call."""

OBJECT_GAP_BYTES = 128 * 1024
"""The same for object stores. Requests travel side by side, so bytes read in vain soon cost more than a round trip."""

LARGEST_MERGE_BYTES = 8 * 1024 * 1024
"""Ranges are merged up to this length, so that long ones travel side by side and a broken one costs little."""


class FileRange(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of a file."""

    location: Location
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Merged:
    """One request: the bytes from `start` to `stop`, and which of the ranges asked for lie in them."""

    location: Location
    start: int
    stop: int
    members: tuple[int, ...]


def read_ranges(wanted: Sequence[FileRange], gap_bytes: int | None = None) -> list[memoryview]:
    """Return the bytes of some ranges, in the order asked for; a range behind the end of its file comes back shorter.

    Args:
        wanted: ranges of any files, in any order; they may overlap.
        gap_bytes: largest gap read through to save a request; by default one for local files and one for object stores.

    Raises:
        StorageError: a file is missing, or the store is failing; nothing is known about the bytes.
    """
    merged = merge(wanted, gap_bytes)
    remote = [one for one in merged if not one.location.is_local]
    contents = dict(zip(remote, _read_remote(remote), strict=True))
    contents |= {one: _read_local(one) for one in merged if one.location.is_local}
    found: list[memoryview] = [memoryview(b"")] * len(wanted)
    for one in merged:
        view = contents[one]
        for member in one.members:
            found[member] = view[wanted[member].start - one.start : wanted[member].stop - one.start]
    return found


def merge(wanted: Sequence[FileRange], gap_bytes: int | None = None) -> list[_Merged]:
    """Return the requests that cover some ranges: at most `LARGEST_MERGE_BYTES` each, unless one range is longer."""
    merged: list[_Merged] = []
    order = sorted(range(len(wanted)), key=lambda place: (wanted[place].location.uri, *wanted[place][1:]))
    for place in order:
        one = wanted[place]
        if one.stop <= one.start:
            continue
        if merged and _joins(merged[-1], one, _gap(one.location) if gap_bytes is None else gap_bytes):
            last = merged.pop()
            merged.append(_Merged(last.location, last.start, max(last.stop, one.stop), (*last.members, place)))
        else:
            merged.append(_Merged(one.location, one.start, one.stop, (place,)))
    return merged


def _joins(last: _Merged, one: FileRange, gap_bytes: int) -> bool:
    if last.location != one.location or one.start > last.stop + gap_bytes:
        return False
    return one.stop <= last.stop or one.stop - last.start <= LARGEST_MERGE_BYTES


def _gap(location: Location) -> int:
    return LOCAL_GAP_BYTES if location.is_local else OBJECT_GAP_BYTES


def _read_local(one: _Merged) -> memoryview:
    return memoryview(retrying(lambda: _pread(one.location.path, one.start, one.stop), one.location.uri, "read"))


def _pread(path: str, start: int, stop: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.pread(descriptor, stop - start, start)
        while start + len(content) < stop and (
            more := os.pread(descriptor, stop - start - len(content), start + len(content))
        ):
            content += more
        return content
    finally:
        os.close(descriptor)


def _read_remote(requests: Sequence[_Merged]) -> list[memoryview]:
    if len(requests) <= 1:
        return [_read_object(one, threading.Event()) for one in requests]
    stop = threading.Event()
    futures = [_readers().submit(_read_object, one, stop) for one in requests]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
        return [future.result() for future in futures]
    finally:
        stop.set()


def _read_object(one: _Merged, stop: threading.Event) -> memoryview:
    def attempt() -> memoryview:
        if stop.is_set():
            raise CancelledError
        return read_object(one.location, one.start, one.stop)

    return retrying(attempt, one.location.uri, "read")


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(OBJECT_STORE_READERS, thread_name_prefix="storage-read")
