"""Finding programs, and running those that take their time."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.leashed import Leashed

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
    command: Sequence[str], say: Callable[[str], object], variables: Mapping[str, str] | None = None
) -> Ended:
    """Run a program to its end; it ends with this process, too.

    Args:
        command: the program and its arguments.
        say: is told every line that it prints.
        variables: environment variables beside this process's own.
    """
    program = Leashed(command, subprocess.STDOUT, variables)
    last: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        with io.TextIOWrapper(io.BufferedReader(program.output), errors="replace") as lines:
            for line in lines:
                if line.strip():
                    last.append(line.rstrip())
                    say(line.rstrip())
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
