"""How processes share the tests out: one begins with whole trainings, the others with the rest; all end together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

TRAININGS = "tests/e2e/"

LONGEST_FIRST = ("hosts", "chaos", "jobs", "training", "stream", "sweep", "autoscaling", "budget")
"""Files of trainings, as `test_NAME.py`; those that are not named come last and take seconds."""


class FileByFile(LoadScopeScheduling):
    """Keeps the tests of a file in one process, where they come in order and share what they set up.

    The first process takes trainings as long as there are some, and the others take other files; whoever has none of
    its own left takes the other kind. The longest come first, so that no process has to wait long for another's last.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _file_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Give a process the next file of the kind that it takes, or of the other kind."""
        trains = node is self.nodes[0]
        wanted = (scope for scope in self.workqueue if scope.startswith(TRAININGS) == trains)
        if (scope := next(wanted, None)) is not None:
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        """Give a process more when one test is left; it needs a next one to begin with that."""
        if node.shutting_down or not self.workqueue or self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)


def place_in_order(nodeid: str) -> int:
    """Return a number by which tests are sorted; those of one file stay as they are."""
    file = Path(_file_of(nodeid))
    name = file.stem.removeprefix("test_")
    if not nodeid.startswith(TRAININGS):
        return 0
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)


def _file_of(nodeid: str) -> str:
    return nodeid.split("::", 1)[0]
