"""The toy workload at the pace that a file says, so that a test can do something in the middle of a run.

The file has two numbers: the seconds that a step takes at least, and the step that does not begin yet. A preflight,
which measures steps from all over a run, does not meet it.
"""

from __future__ import annotations

import time
from pathlib import Path

from toy_workload import ToyConfig, ToyEntry, ToyWorkload

from workloads.contract import Clock

LOOK_EVERY_S = 0.1


def write_pace(file: Path, seconds: float, hold: int) -> None:
    """Say how long a step takes at least, and which one does not begin before this is said anew."""
    draft = file.with_suffix(".draft")
    draft.write_text(f"{seconds} {hold}")
    draft.replace(file)


class PacedConfig(ToyConfig):
    """Where the pace stands."""

    pace: str | None = None


class PacedWorkload(ToyWorkload):
    """Waits at the beginning of every step."""

    def begin_step(self, clock: Clock) -> None:
        if isinstance(self._config, PacedConfig) and self._config.pace:
            file = Path(self._config.pace)
            time.sleep(float(file.read_text().split()[0]))
            while clock.step == int(file.read_text().split()[1]):
                time.sleep(LOOK_EVERY_S)


class PacedEntry(ToyEntry):
    """Registers the paced toy."""

    config_type = PacedConfig

    def create(self, config: ToyConfig) -> PacedWorkload:
        return PacedWorkload(config)


ENTRY = PacedEntry()
