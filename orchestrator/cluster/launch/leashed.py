"""Programs that end when this process does, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

LEASH = Path(__file__).with_name("leash.py")


class Leashed:
    """A program that runs; see `leash`.

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
