"""Errors of the training loop that say themselves what kind of failure they are."""

from __future__ import annotations

from orchestrator.config.errors import FuserayError


class BadDataError(FuserayError):
    """Too large a share of the samples is bad."""


class NotANumberError(FuserayError):
    """The loss or a gradient is infinite or not a number."""


class LeftError(FuserayError):
    """Workers saved and made room, for their machines go away or more workers are to come; the run goes on."""
