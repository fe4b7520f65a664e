"""What a check found, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["pass", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Args:
        name: what was checked.
        level: "pass", "warning" (work can go on) or "error" (it cannot).
        found: what is there.
        fix: what to do about it; empty when nothing needs to be done.
    """

    name: str
    level: Level
    found: str
    fix: str = ""


def passed(name: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(name, "pass", found)


def warned(name: str, found: str, fix: str) -> Finding:
    """Return something that work can go on with."""
    return Finding(name, "warning", found, fix)


def failed(name: str, found: str, fix: str) -> Finding:
    """Return something that has to be mended first."""
    return Finding(name, "error", found, fix)
