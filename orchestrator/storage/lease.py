"""The lease of a folder: the one driver that works on a run or a sweep holds it, renews it, and returns it at its end.

A holder on this machine is judged by its process, at once; one elsewhere by whether the lease is renewed while the
next driver watches. So no two machines' clocks are compared, and object stores will do.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError

LEASE_FILE = "lease.json"

RENEW_EVERY_S = 5.0
EXPIRES_AFTER_S = 30.0
"""For so long a driver watches a lease that another machine holds; one that is not renewed meanwhile has expired."""

CONFIRM_AFTER_S = 0.3
"""After so long a new holder looks whether another driver wrote the lease at the same moment; the last one holds it."""

ENDING_S = 3.0
"""A holder on this machine that is just ending gets so long."""

POLL_S = 1.0
RETURN_TIMEOUT_S = 30.0
"""How long the end of a driver waits for a renewal that has begun."""


class LeaseError(FuserayError):
    """Another driver holds the lease, or has taken it over."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, on any machine.

    Args:
        host: the machine's name, for messages.
        pid: its id there.
        machine: boot and PID namespace of the machine; empty when unknown.
        started: when it started, in clock ticks since the boot; empty when unknown.
    """

    host: str
    pid: int
    machine: str = ""
    started: str = ""

    def is_running(self) -> bool | None:
        """Return whether it runs, None when that cannot be seen from here."""
        if not self.machine or self.machine != _this_machine():
            return None
        return _start_of(self.pid) == self.started


def this_process() -> Process:
    """Return this process."""
    return Process(socket.gethostname(), os.getpid(), _this_machine(), _start_of(os.getpid()))


def _this_machine() -> str:
    """Return what no other machine, boot or container has; empty where that, or other users' processes, is hidden."""
    try:
        Path("/proc/1/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """Return when a process started; empty when it has ended (proc_pid_stat(5): state, starttime)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True, slots=True)
class Lease:
    """The content of a lease's file.

    Args:
        id: of this holder; no other start of a driver has it.
        holder: the process.
        since: ISO 8601 time by the holder's clock, for messages.
        renewals: how often it was renewed.
    """

    id: str
    holder: Process
    since: str
    renewals: int = 0

    def to_json(self) -> bytes:
        """Return the file's content."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def of(cls, content: bytes) -> Lease | None:
        """Return a lease from a file's content, None when it is damaged."""
        try:
            values = json.loads(content)
            return cls(**{**values, "holder": Process(**values["holder"])})
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a driver waits for a lease.

    Args:
        log: takes a message for the user.
        pause: sleeps some seconds.
        clock: monotonic time in seconds.
    """

    log: Callable[[str], None]
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class HeldLease:
    """A lease that this process holds.

    Args:
        file: the lease's file.
        lease: its first content.
        contended: whether another driver may have changed the folder since the lease was asked for.

    `is_lost` says whether another driver has taken it over since.
    """

    def __init__(self, file: Location, lease: Lease, contended: bool) -> None:
        self.contended = contended
        self._file = file
        self._lease = lease
        self._lost_to: Lease | None = None
        self.is_lost = False

    def check(self) -> None:
        """Refuse to go on without the lease.

        Raises:
            LeaseError: another driver has taken it over.
        """
        if self.is_lost:
            raise LeaseError(
                f"{_folder(self._file)}: {_taken_by(self._lost_to)}, because this driver had not renewed its lease for "
                f"{EXPIRES_AFTER_S:.0f} s. This one stops and leaves the folder to the other."
            )

    def renew(self) -> None:
        """Write that the holder lives, unless the lease is lost; a store that fails is asked again the next time."""
        with suppress(StorageError):
            content = _read(self._file)
            present = None if content is None else Lease.of(content)
            if present is None or present.id != self._lease.id:
                self._lost_to, self.is_lost = present, True
                return
            self._lease = Lease(present.id, present.holder, present.since, present.renewals + 1)
            self._file.write(self._lease.to_json())

    def give_back(self) -> None:
        """Remove the lease's file, unless the lease is lost; a file that cannot be removed expires."""
        with suppress(StorageError):
            content = _read(self._file)
            present = None if content is None else Lease.of(content)
            if present is not None and present.id == self._lease.id:
                self._file.delete()


def take_lease(folder: Location, subject: str, waiting: Waiting) -> HeldLease:
    """Take the lease of a folder.

    A crashed holder's lease is taken over: at once where its process can be looked for, else when it was not renewed
    for `EXPIRES_AFTER_S`.

    Args:
        folder: the folder, which need not exist.
        subject: what is in it, for messages: "run" or "sweep".
        waiting: how to wait.

    Raises:
        LeaseError: another driver holds it.
        StorageError: it cannot be read or written.
    """
    file = folder / LEASE_FILE
    present = _read(file)
    contended = present is not None and _wait_for_end(file, present, subject, waiting)
    lease = Lease(uuid4().hex, this_process(), datetime.now(UTC).isoformat(timespec="seconds"))
    file.write(lease.to_json())
    waiting.pause(CONFIRM_AFTER_S)
    written = _read(file)
    if written != lease.to_json():
        raise _refusal(file, written, subject, "it started at the same moment")
    return HeldLease(file, lease, contended)


@contextmanager
def hold_lease(
    folder: Location, subject: str, waiting: Waiting, renew_every_s: float = RENEW_EVERY_S
) -> Iterator[HeldLease]:
    """Hold the lease of a folder while the body runs; a thread renews it.

    Args:
        folder: the folder, which need not exist.
        subject: what is in it, for messages: "run" or "sweep".
        waiting: how to wait for the lease.
        renew_every_s: seconds between two renewals.

    Raises:
        LeaseError: another driver holds it.
        StorageError: it cannot be read or written.
    """
    held, ended = take_lease(folder, subject, waiting), threading.Event()
    thread = threading.Thread(target=_keep_renewing, args=(held, ended, renew_every_s), daemon=True, name="lease")
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join(RETURN_TIMEOUT_S)
        held.give_back()


def _keep_renewing(held: HeldLease, ended: threading.Event, every_s: float) -> None:
    while not ended.wait(every_s):
        held.renew()


def _wait_for_end(file: Location, present: bytes, subject: str, waiting: Waiting) -> bool:
    """Wait until the holder has ended or its lease expired; return False when it had ended before.

    Raises:
        LeaseError: it has not.
    """
    lease = Lease.of(present)
    if lease is None or lease.holder.is_running() is None:
        _watch_renewals(file, present, subject, waiting)
        return True
    if not lease.holder.is_running():
        return False
    if not _waited_until(lambda: not lease.holder.is_running() or _read(file) is None, ENDING_S, waiting):
        raise _refusal(file, present, subject, "its process runs on this machine")
    return True


def _watch_renewals(file: Location, present: bytes, subject: str, waiting: Waiting) -> None:
    """Wait until the lease is given back or expires.

    Raises:
        LeaseError: it was renewed.
    """
    waiting.log(
        f"{_folder(file)}: {_held_by(Lease.of(present))}. Watching for {EXPIRES_AFTER_S:.0f} s whether it lives."
    )
    began_s = waiting.clock()
    if _waited_until(lambda: _read(file) != present, EXPIRES_AFTER_S, waiting):
        newest, after_s = _read(file), waiting.clock() - began_s
        if newest is not None:
            raise _refusal(file, newest, subject, f"it renewed its lease {after_s:.0f} s after this one asked")


def _waited_until(condition: Callable[[], bool], timeout_s: float, waiting: Waiting) -> bool:
    """Wait for a condition; return False when it does not become true in time."""
    until_s = waiting.clock() + timeout_s
    while waiting.clock() < until_s:
        waiting.pause(POLL_S)
        if condition():
            return True
    return False


def _refusal(file: Location, content: bytes | None, subject: str, sign: str) -> LeaseError:
    lease = None if content is None else Lease.of(content)
    stop = "" if lease is None else f" (process {lease.holder.pid} on {lease.holder.host})"
    return LeaseError(
        f"{_folder(file)}: {_held_by(lease)}, and {sign}; two would disturb each other. Wait until that driver has "
        f"ended, or stop it{stop} first; then continue the {subject} with --resume. Nothing was changed."
    )


def _held_by(lease: Lease | None) -> str:
    if lease is None:
        return "another driver works on it"
    return f"process {lease.holder.pid} on {lease.holder.host} works on it since {lease.since}"


def _taken_by(lease: Lease | None) -> str:
    return (
        "its lease was removed" if lease is None else f"process {lease.holder.pid} on {lease.holder.host} took it over"
    )


def _folder(file: Location) -> str:
    return file.uri.removesuffix(f"/{LEASE_FILE}")


def _read(file: Location) -> bytes | None:
    """Return the content of a lease's file, None when there is none.

    Raises:
        StorageError: it cannot be read.
    """
    if file.size() is None:
        return None
    try:
        return file.read()
    except StorageError:
        if file.size() is None:
            return None
        raise
