"""A word that the workers of one start have in common and no other start has."""

from __future__ import annotations

import secrets

import torch

from orchestrator.train.collective import Collective


def shared_token(collective: Collective) -> str:
    """Return a word that is the same on all workers and new at every call; all workers call it together."""
    drawn = torch.tensor([secrets.randbits(62) if collective.rank == 0 else 0])
    collective.sum(drawn)
    return f"{int(drawn):016x}"
