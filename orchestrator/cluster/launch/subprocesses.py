"""Programs that end when this process does, however it ends."""

from __future__ import annotations

import io
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from orchestrator.cluster.findings import ClusterError
from orchestrator.config.errors import FuserayError

LEASH = Path(__file__).with_name("parent_watch.py")


class Leashed:
    """A program that runs; see `parent_watch`.

    Args:
        command: the program and its arguments.
        errors: where its standard error goes, as for `subprocess.Popen`.
        variables: environment variables beside this process's own.
    """

    def __init__(
        self, command: Sequence[str], errors: int | IO[bytes], variables: Mapping[str, str] | None = None
    ) -> None:
        held, self._leash = os.pipe()
        output, written = os.pipe()
        self.output = os.fdopen(output, "rb", buffering=0)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(LEASH), *command],
                stdin=held,
                stdout=written,
                stderr=errors,
                env=os.environ | dict(variables or {}),
            )
        finally:
            os.close(held)
            os.close(written)

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end; return its exit code, None when it takes longer."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End it, unless it has ended; return when it has."""
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1
        self._process.wait()


# Finding programs, and running those that take their time.


KEPT_LINES = 12


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Args:
        code: its exit code.
        said: the last lines that it printed.
    """

    code: int | None
    said: str


def run_aloud(
    command: Sequence[str], log: Callable[[str], object], variables: Mapping[str, str] | None = None
) -> Ended:
    """Run a program to its end; it ends with this process, too.

    Args:
        command: the program and its arguments.
        log: is told every line that it prints.
        variables: environment variables beside this process's own.
    """
    program = Leashed(command, subprocess.STDOUT, variables)
    last: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        with io.TextIOWrapper(io.BufferedReader(program.output), errors="replace") as lines:
            for line in lines:
                if line.strip():
                    last.append(line.rstrip())
                    log(line.rstrip())
        return Ended(program.wait(), "\n".join(last))
    finally:
        program.end()


def find_program(name: str, purpose: str, fix: str) -> str:
    """Return the path of a program: beside this Python, or on the path.

    Args:
        name: the program's.
        purpose: who needs it, for the message.
        fix: what to do where there is none.

    Raises:
        ClusterError: there is none.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise ClusterError(f"{purpose} needs the program {name}, which is not on the path; {fix}")
    return found


# Tunnels: programs that carry connections to a cluster for as long as a block of code runs.


OPEN_S = 60.0
LAST_BREATH_S = 1.0
KEPT_CHARACTERS = 1000
NOISE = re.compile(r"^Warning: Permanently added .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TunnelCommand:
    """A program that opens a tunnel.

    Args:
        command: the program and its arguments.
        ready: matches what it prints on standard output once the tunnel is open.
        purpose: what it is for, as in "the tunnel to cluster lab".
    """

    command: Sequence[str]
    ready: re.Pattern[str] = field(repr=False)
    purpose: str


@contextmanager
def tunnel(wanted: TunnelCommand, open_s: float = OPEN_S) -> Iterator[re.Match[str]]:
    """Hold a tunnel open while the body runs; give the body what matched when it opened.

    Args:
        wanted: the program.
        open_s: seconds that it may take to open the tunnel.

    Raises:
        ClusterError: it cannot be opened, or it broke and the body failed for that; in the program's own words.
    """
    with TemporaryFile() as said:
        program = Leashed(wanted.command, said)
        try:
            opened = _opened(program, wanted, said, open_s)
            threading.Thread(target=_drain, args=(program,), daemon=True).start()
            yield opened
        except FuserayError:
            raise
        except Exception as error:
            # A connection breaks a moment before the program that carried it is gone.
            if program.wait(LAST_BREATH_S) is None:
                raise
            raise ClusterError(f"{wanted.purpose} broke: {_words(said)}") from error
        finally:
            program.end()


def _opened(program: Leashed, wanted: TunnelCommand, said: IO[bytes], open_s: float) -> re.Match[str]:
    """Wait until it is open."""
    until_s = time.monotonic() + open_s
    heard = b""
    while select.select([program.output], [], [], max(0.0, until_s - time.monotonic()))[0]:
        piece = os.read(program.output.fileno(), 4096)
        if not piece:
            program.wait()
            raise ClusterError(f"{wanted.purpose} cannot be opened: {_words(said)}")
        heard += piece
        if found := wanted.ready.search(heard.decode(errors="replace")):
            return found
    raise ClusterError(f"{wanted.purpose} did not open within {open_s:g} s: {_words(said)}")


def _drain(program: Leashed) -> None:
    """Take what the program goes on to say, or it would stop when the pipe is full."""
    with program.output:
        while program.output.read(65536):
            pass


def _words(said: IO[bytes]) -> str:
    """Return what the program said last."""
    said.seek(0)
    text = NOISE.sub("", said.read().decode(errors="replace")).strip()
    return " ".join(text[-KEPT_CHARACTERS:].split()) or "it said nothing."
