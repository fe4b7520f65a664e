"""Subprocesses: programs that end with this process, tunnels to a cluster, and child processes that answer in JSON."""

from __future__ import annotations

import io
import json
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
from typing import IO, Any

import orchestrator
from orchestrator.cluster.findings import ClusterError
from orchestrator.config.errors import FuserayError

PARENT_WATCH = Path(__file__).with_name("parent_watch.py")
KEPT_LINES = 12


class ChildProcess:
    """A running program that ends when this process does, however it ends; see `parent_watch`.

    Args:
        command: the program and its arguments.
        errors: where its standard error goes, as for `subprocess.Popen`.
        variables: environment variables in addition to this process's own.
    """

    def __init__(
        self, command: Sequence[str], errors: int | IO[bytes], variables: Mapping[str, str] | None = None
    ) -> None:
        watched_end, self._parent_end = os.pipe()
        output, written = os.pipe()
        self.output = os.fdopen(output, "rb", buffering=0)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(PARENT_WATCH), *command],
                stdin=watched_end,
                stdout=written,
                stderr=errors,
                env=os.environ | dict(variables or {}),
            )
        finally:
            os.close(watched_end)
            os.close(written)

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until it ends; return its exit code, None after the timeout."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End it, unless it has ended, and wait for it."""
        if self._parent_end >= 0:
            os.close(self._parent_end)
            self._parent_end = -1
        self._process.wait()


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """Result of a program.

    Args:
        code: its exit code.
        last_lines: the last lines of its output.
    """

    code: int | None
    last_lines: str


def run_streaming(
    command: Sequence[str], log: Callable[[str], object], variables: Mapping[str, str] | None = None
) -> ProgramResult:
    """Run a program and pass on its output line by line; it ends with this process, too.

    Args:
        command: the program and its arguments.
        log: takes every line of its output.
        variables: environment variables in addition to this process's own.
    """
    program = ChildProcess(command, subprocess.STDOUT, variables)
    last_lines: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        with io.TextIOWrapper(io.BufferedReader(program.output), errors="replace") as lines:
            for line in lines:
                if line.strip():
                    last_lines.append(line.rstrip())
                    log(line.rstrip())
        return ProgramResult(program.wait(), "\n".join(last_lines))
    finally:
        program.end()


def find_program(name: str, purpose: str, fix: str) -> str:
    """Return the path of a program: in the folder of this Python, or on the path.

    Args:
        name: the program's name.
        purpose: what needs it, for the message.
        fix: how to install it, for the message.

    Raises:
        ClusterError: it is not installed.
    """
    candidate = Path(sys.executable).with_name(name)
    program = str(candidate) if os.access(candidate, os.X_OK) else shutil.which(name)
    if program is None:
        raise ClusterError(f"{purpose} needs the program {name}, which is not on the path; {fix}")
    return program


class ChildFailedError(Exception):
    """A child process ended without an answer.

    Args:
        output: its standard error, or its standard output if that is empty.
    """

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


def query_child(
    module: str, question: Mapping[str, Any], timeout_s: float, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a module in a child process that answers one question with `answer_parent`; return the answer.

    Args:
        module: the module's dotted name; it is run as `python -P -m`, so that the current folder hides no module.
        question: JSON values.
        timeout_s: after so long, the child is killed.
        variables: environment variables in addition to this process's own.

    Raises:
        subprocess.TimeoutExpired: there was no answer in time.
        ChildFailedError: the child ended without an answer.
        OSError: the child could not be started.
    """
    completed = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=os.environ | {"PYTHONPATH": _python_path()} | dict(variables or {}),
    )
    lines = completed.stdout.splitlines()
    if completed.returncode != 0 or not lines:
        raise ChildFailedError(completed.stderr.strip() or completed.stdout.strip())
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def answer_parent(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Answer the question on standard input with a line of JSON on standard output, in the child of `query_child`.

    Whatever else the process prints goes to standard error.

    Args:
        answer: returns the answer to a question, as JSON values.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(answer(json.load(sys.stdin))), file=answers, flush=True)


def _python_path() -> str:
    """Return PYTHONPATH with the project's own folder first."""
    root = str(Path(orchestrator.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([root, inherited] if inherited else [root])


OPEN_S = 60.0
EXIT_S = 1.0
"""How long the program of a broken tunnel may take to end."""

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
def tunnel(command: TunnelCommand, open_s: float = OPEN_S) -> Iterator[re.Match[str]]:
    """Hold a tunnel open while the body runs; give the body the match of `ready`.

    Args:
        command: the program.
        open_s: timeout for opening the tunnel, in seconds.

    Raises:
        ClusterError: the tunnel cannot be opened, or it broke and the body failed because of that; the message has the
            program's own error.
    """
    with TemporaryFile() as errors:
        program = ChildProcess(command.command, errors)
        try:
            ready = _wait_until_open(program, command, errors, open_s)
            threading.Thread(target=_drain_output, args=(program,), daemon=True).start()
            yield ready
        except FuserayError:
            raise
        except Exception as error:
            # A connection breaks a moment before the program that forwarded it ends.
            if program.wait(EXIT_S) is None:
                raise
            raise ClusterError(f"{command.purpose} broke: {_last_words(errors)}") from error
        finally:
            program.end()


def _wait_until_open(program: ChildProcess, command: TunnelCommand, errors: IO[bytes], open_s: float) -> re.Match[str]:
    deadline_s = time.monotonic() + open_s
    output = b""
    while select.select([program.output], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        chunk = os.read(program.output.fileno(), 4096)
        if not chunk:
            program.wait()
            raise ClusterError(f"{command.purpose} cannot be opened: {_last_words(errors)}")
        output += chunk
        if match := command.ready.search(output.decode(errors="replace")):
            return match
    raise ClusterError(f"{command.purpose} did not open within {open_s:g} s: {_last_words(errors)}")


def _drain_output(program: ChildProcess) -> None:
    """Read the program's further output, or it would block once the pipe is full."""
    with program.output:
        while program.output.read(65536):
            pass


def _last_words(errors: IO[bytes]) -> str:
    """Return the end of the program's standard error on one line."""
    errors.seek(0)
    text = NOISE.sub("", errors.read().decode(errors="replace")).strip()
    return " ".join(text[-KEPT_CHARACTERS:].split()) or "it printed nothing."
