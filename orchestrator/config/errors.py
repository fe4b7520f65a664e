"""Errors that a user can act on. The command line prints them without a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class FuserayError(Exception):
    """The run cannot continue; the message names the thing, the location and the fix."""


class ConfigError(FuserayError):
    """What the user wrote is wrong; nothing was started."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One error in a recipe, sweep, cluster or price file.

    Args:
        location: `file:line`, or "command line".
        message: what is wrong and how to fix it.
    """

    location: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class RecipeError(ConfigError):
    """A file is invalid; lists every error in it.

    Args:
        findings: the errors.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)
