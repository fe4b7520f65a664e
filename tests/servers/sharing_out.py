"""How processes share the tests out: a file goes to one of them, and so do all whole trainings."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TRAININGS = "tests/e2e/"


class FileByFile(LoadScopeScheduling):
    """Keeps the tests of a file in one process, where they come in order and share what they set up.

    Whole trainings come first and one after another.
    """

    def _split_scope(self, nodeid: str) -> str:
        return TRAININGS if nodeid.startswith(TRAININGS) else nodeid.split("::", 1)[0]
