"""A training run seen from outside: its driver is a process that can be killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

DRIVER = Path(__file__).with_name("chaos_driver.py")
Found = TypeVar("Found")


class TrainingEndedError(RuntimeError):
    """The run failed, or was over too early, or did not do in time what was expected of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something that the driver told.

    Args:
        time_s: when, in seconds since 1970.
        step: the step that is done; None for a message.
        said: the message.
    """

    time_s: float
    step: int | None
    said: str


class Training:
    """One run.

    Args:
        recipe: its recipe.
        overrides: of single values.
        environment: all variables of the driver.
        log: file for what the driver says beside its lines.
    """

    def __init__(self, recipe: Path, overrides: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = [sys.executable, str(DRIVER), str(recipe), *overrides]
        self._environment = dict(environment)
        self._log = log
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.lines: list[Line] = []
        self.began_s = 0.0

    def start(self) -> None:
        """Start the driver, or start it again."""
        self.began_s = self.began_s or time.time()
        with self._log.open("a") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,
            )
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Kill the driver, without warning; nothing happens when it is gone."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._reader is not None:
            self._reader.join()

    def wait(self, look: Callable[[Sequence[Line]], Found | None], limit_s: float, what: str) -> Found:
        """Wait until something is found in the lines.

        Args:
            look: returns what was found, None as long as there is nothing.
            limit_s: how long to wait.
            what: what is waited for, in words.

        Raises:
            TrainingEndedError: it did not come, or the driver ended.
        """
        until_s = time.monotonic() + limit_s
        with self._news:
            while (found := look(self.lines)) is None:
                if not self._running():
                    raise TrainingEndedError(f"the run was over before {what}.{self._last_words()}")
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise TrainingEndedError(f"after {limit_s:.0f} s still not: {what}.{self._last_words()}")
                self._news.wait(min(left_s, 1.0))
            return found

    def finish(self, limit_s: float) -> float:
        """Wait until the run is over; return the seconds since its first start.

        Raises:
            TrainingEndedError: it failed, or took too long.
        """
        assert self._process is not None
        assert self._reader is not None
        try:
            code = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise TrainingEndedError(f"the run was not over after {limit_s:.0f} s.{self._last_words()}") from None
        ended_s = time.time()
        self._reader.join()
        if code != 0:
            raise TrainingEndedError(f"the run failed.{self._last_words()}")
        return ended_s - self.began_s

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            values = json.loads(text)
            line = Line(values["time_s"], values.get("step"), values.get("said", ""))
            if line.said:
                click.echo(f"  {line.said}", err=True)
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _running(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def _last_words(self) -> str:
        said = [line.said for line in self.lines if line.said][-5:]
        rest = self._log.read_text(errors="replace").splitlines()[-5:] if self._log.exists() else []
        return "".join(f"\n  {text}" for text in (*said, *rest))
