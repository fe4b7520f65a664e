"""How processes share the tests out: a file goes to one of them, and so do most of the whole trainings."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TRAININGS = "tests/e2e/"

LAST = tuple(f"{TRAININGS}{name}.py" for name in ("test_training", "test_sweep", "test_stream_benchmark"))
"""Files that whichever process is free takes at the end, so that all processes end together."""


class FileByFile(LoadScopeScheduling):
    """Keeps the tests of a file in one process, where they come in order and share what they set up.

    Whole trainings come first and one after another, but for the last.
    """

    def _split_scope(self, nodeid: str) -> str:
        return TRAININGS if nodeid.startswith(TRAININGS) and not is_last(nodeid) else nodeid.split("::", 1)[0]


def is_last(nodeid: str) -> bool:
    """Return whether a test is of a file that comes last."""
    return nodeid.startswith(LAST)
