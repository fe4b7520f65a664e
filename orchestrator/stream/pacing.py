"""A pause between the turns of Ray Data's scheduling loop.

Ray Data waits until its tasks have something to hand over, but what they have ready and has no room ends that wait at
once. Where the stream has read as far ahead as the object store allows, the loop would keep a CPU busy with nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

PAUSE_S = 0.01
"""A turn deals with all that is ready and starts all that there is room for, so some of them a second are enough."""


class Pacing(ExecutionCallback):
    """Pauses after every turn."""

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Pause."""
        time.sleep(PAUSE_S)
