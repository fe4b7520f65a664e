"""What `fuseray train RECIPE [KEY.PATH=VALUE ...] --resume auto` does, told in JSON lines as it happens.

A line has `time_s` (seconds since 1970) and either `step`, a step that is done, or `said`, a message of the run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

from leaving import leave_after

from orchestrator.cluster.preemption.watcher import Watchers
from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import load_recipe
from orchestrator.train.control_channel import StepRecord
from orchestrator.train.driver import run
from orchestrator.train.plan import make_plan
from orchestrator.train.resume import continued_run, new_run


class Lines:
    """Shows a run as JSON lines.

    Args:
        output: where they go.
    """

    def __init__(self, output: IO[str]) -> None:
        self._output = output

    def log(self, text: str) -> None:
        """Write a message."""
        self._write(said=text)

    def step(self, record: StepRecord, skipped: int) -> None:
        """Write that a step is done."""
        self._write(step=record.step)

    def _write(self, **values: Any) -> None:
        print(json.dumps({"time_s": time.time()} | values), file=self._output, flush=True)


def main() -> None:
    """Train."""
    lines = Lines(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    try:
        plan = make_plan(load_recipe(Path(sys.argv[1]), sys.argv[2:]))
        start = continued_run(plan, lines.log) if plan.run.exists() else new_run(plan)
        notices = plan.recipe.recovery.notices
        if not start.done:
            run(plan, start, lines, None if notices == "none" else Watchers(notices))
    except FuserayError as error:
        lines.log(str(error))
        sys.exit(1)


if __name__ == "__main__":
    leave_after(main)
