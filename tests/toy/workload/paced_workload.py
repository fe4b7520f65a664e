"""The toy workload at the pace that a file says, so that a test can do something in the middle of a run.

The file has two numbers: the seconds that a step takes at least, and the step that does not begin yet. A preflight,
which measures steps from all over a run, does not meet it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from toy_workload import ToyConfig, ToyEntry, ToyEvaluator, ToyWorkload

from workloads.contract import Chunk, Clock, EvaluationOptions, FeatureName, Record, Sample

LOOK_EVERY_S = 0.1
DIES = "TOY_EVALUATION_DIES"
"""Variable with the file that says that a process which evaluates has ended; without it none does."""


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

    @contextmanager
    def evaluator(self, options: EvaluationOptions) -> Iterator[ToyEvaluator]:
        with super().evaluator(options) as evaluator:
            yield MortalEvaluator(evaluator.model, evaluator.options) if DIES in os.environ else evaluator


class MortalEvaluator(ToyEvaluator):
    """Ends its process at the first chunk, unless a file says that one has ended already."""

    def score(self, chunk: Chunk, features: Mapping[FeatureName, np.ndarray], samples: Mapping[int, Sample]) -> Record:
        died = Path(os.environ[DIES])
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(chunk, features, samples)


class PacedEntry(ToyEntry):
    """Registers the paced toy."""

    config_type = PacedConfig

    def create(self, config: ToyConfig) -> PacedWorkload:
        return PacedWorkload(config)


ENTRY = PacedEntry()
