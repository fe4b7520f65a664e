"""Who may work on a folder: a holder that lives, ends, crashes or stalls, on this machine and on others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from s3_server import S3Server

from orchestrator.storage.lease import (
    EXPIRES_AFTER_S,
    LEASE_FILE,
    Lease,
    LeaseError,
    Process,
    Waiting,
    hold_lease,
    take_lease,
    this_process,
)
from orchestrator.storage.location import Location, locate

FAR = Process("node-7", 41, "another boot/4026531836", "1234")


@dataclass
class Time:
    """Time that passes only in pauses, and what happens then."""

    now_s: float = 0.0
    told: list[str] = field(default_factory=list)
    then: Callable[[], None] = lambda: None

    def pause(self, seconds: float) -> None:
        self.now_s += seconds
        self.then()

    @property
    def waiting(self) -> Waiting:
        return Waiting(self.told.append, self.pause, lambda: self.now_s)


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "run"))


def left_by(folder: Location, holder: Process, renewals: int = 0) -> Lease:
    lease = Lease("f" * 32, holder, "2026-01-01T00:00:00+00:00", renewals)
    (folder / LEASE_FILE).write(lease.to_json())
    return lease


def test_a_lease_is_held_by_one_driver_and_returned(folder: Location) -> None:
    time = Time()
    with hold_lease(folder, "run", time.waiting) as held:
        assert not held.contended
        me = re.escape(f"process {os.getpid()} on {this_process().host}")
        with pytest.raises(LeaseError, match=f"run: {me} works on it since .*, and its process runs on this machine"):
            take_lease(folder, "run", Time().waiting)
        held.check()
    assert not (folder / LEASE_FILE).exists()
    assert not time.told


def test_a_process_on_this_machine_that_is_killed_is_succeeded_at_once(folder: Location) -> None:
    code = "import sys; sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    holder = replace(this_process(), pid=child.pid, started=fields[19])
    left_by(folder, holder)
    with pytest.raises(LeaseError, match=f"stop it \\(process {child.pid} on "):
        take_lease(folder, "run", Time().waiting)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert holder.is_running() is False, "a zombie has ended"
    child.communicate()
    time = Time()
    assert not take_lease(folder, "run", time.waiting).contended
    assert (time.now_s < 1, time.told) == (True, [])


def test_an_id_that_was_given_to_another_process_is_not_the_holder(folder: Location) -> None:
    left_by(folder, replace(this_process(), started="1"))
    take_lease(folder, "run", Time().waiting).check()


def test_a_driver_elsewhere_that_renews_its_lease_is_left_alone(folder: Location) -> None:
    left_by(folder, FAR)
    time = Time()
    time.then = lambda: time.now_s > 4 and left_by(folder, FAR, renewals=1) and None
    with pytest.raises(LeaseError) as refused:
        take_lease(folder, "sweep", time.waiting)
    text = str(refused.value)
    assert (
        "process 41 on node-7 works on it since 2026-01-01T00:00:00+00:00, and it renewed its lease 5 s after" in text
    )
    assert "continue the sweep with --resume" in text
    assert Lease.of((folder / LEASE_FILE).read()) == Lease("f" * 32, FAR, "2026-01-01T00:00:00+00:00", 1)
    assert "Watching for 30 s" in time.told[0]


@pytest.mark.parametrize("content", [None, b"{half a fi"])
def test_a_driver_elsewhere_that_no_longer_renews_is_succeeded(folder: Location, content: bytes | None) -> None:
    """Its clock may be years ahead or behind: it is not looked at."""
    left_by(folder, FAR)
    if content:
        (folder / LEASE_FILE).write(content)
    time = Time()
    held = take_lease(folder, "run", time.waiting)
    assert held.contended
    assert EXPIRES_AFTER_S <= time.now_s < EXPIRES_AFTER_S + 2


def test_a_driver_elsewhere_that_ends_is_succeeded_when_it_returns_its_lease(folder: Location) -> None:
    left_by(folder, FAR)
    time = Time()
    time.then = lambda: 2 < time.now_s <= 3 and (folder / LEASE_FILE).delete()
    assert take_lease(folder, "run", time.waiting).contended
    assert time.now_s < EXPIRES_AFTER_S / 2


def test_of_two_that_start_at_the_same_moment_one_goes_on(folder: Location) -> None:
    time = Time()
    time.then = lambda: left_by(folder, FAR) and None
    with pytest.raises(LeaseError, match=r"process 41 on node-7 .* started at the same moment"):
        take_lease(folder, "run", time.waiting)
    assert Lease.of((folder / LEASE_FILE).read()) is not None


def test_a_driver_that_was_cut_off_and_succeeded_stops_and_leaves_the_lease(folder: Location) -> None:
    held = take_lease(folder, "run", Time().waiting)
    held.renew()
    held.check()
    successor = left_by(folder, FAR)
    held.renew()
    with pytest.raises(LeaseError, match="process 41 on node-7 took it over"):
        held.check()
    held.give_back()
    assert Lease.of((folder / LEASE_FILE).read()) == successor


def test_the_lease_is_renewed_while_the_body_runs(folder: Location) -> None:
    with hold_lease(folder, "run", Time().waiting, renew_every_s=0.001):
        first = _renewals(folder)
        while _renewals(folder) <= first:
            pass


def test_an_object_store_will_do(seaweedfs_server: S3Server, log_in: Callable[[S3Server], None]) -> None:
    log_in(seaweedfs_server)
    folder = locate(f"s3://{seaweedfs_server.make_bucket()}/runs/a", seaweedfs_server.endpoint)
    with hold_lease(folder, "run", Time().waiting) as held:
        held.renew()
        held.check()
        with pytest.raises(LeaseError, match="its process runs on this machine"):
            take_lease(folder, "run", Time().waiting)
    assert not (folder / LEASE_FILE).exists()


def _renewals(folder: Location) -> int:
    lease = Lease.of((folder / LEASE_FILE).read())
    assert lease is not None
    return lease.renewals
