"""The toy workload at the pace that a file says, so that a test can do something in the middle of a run."""

from __future__ import annotations

import time
from pathlib import Path

from toy_workload import ToyConfig, ToyEntry, ToyWorkload

from workloads.contract import Clock


class PacedConfig(ToyConfig):
    """Where the seconds stand that a step takes at least."""

    pace: str | None = None


class PacedWorkload(ToyWorkload):
    """Waits at the beginning of every step."""

    def begin_step(self, clock: Clock) -> None:
        if isinstance(self._config, PacedConfig) and self._config.pace:
            time.sleep(float(Path(self._config.pace).read_text()))


class PacedEntry(ToyEntry):
    """Registers the paced toy."""

    config_type = PacedConfig

    def create(self, config: ToyConfig) -> PacedWorkload:
        return PacedWorkload(config)


ENTRY = PacedEntry()
