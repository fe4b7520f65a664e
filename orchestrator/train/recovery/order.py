"""What the driver's side wants of the workers, at the end of a step."""

from __future__ import annotations

from enum import IntEnum


class Order(IntEnum):
    """The later one counts when there are several."""

    GO_ON = 0
    LEAVE = 1
    """Save, then make room for workers on other machines, or for more of them."""
    STOP = 2
    """Save, then end the run."""

    @property
    def saves(self) -> bool:
        """Whether a checkpoint is due."""
        return self is not Order.GO_ON
