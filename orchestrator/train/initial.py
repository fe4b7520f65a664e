"""The state that training begins with: of the run itself, of another checkpoint, or fresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from orchestrator.train.checkpoints.errors import CheckpointError
from orchestrator.train.checkpoints.loading import Checkpoint, load_checkpoint, load_newest
from orchestrator.train.checkpoints.optimizer_state import restore_optimizer
from orchestrator.train.collective import Collective
from orchestrator.train.parallel.protocol import Parallel
from orchestrator.train.plan import Plan


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where this attempt begins.

    Args:
        first_step: the first step to do.
        checkpoint: what to restore; None when the model starts from the workload's own weights.
        moments: whether the optimiser is restored as well.
    """

    first_step: int
    checkpoint: Checkpoint | None = None
    moments: bool = False

    @property
    def pretrained(self) -> bool:
        """Whether the workload loads its own initial weights."""
        return self.checkpoint is None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, parallel: Parallel) -> None:
        """Set the model and, where it was taken along, the optimiser's state.

        Args:
            model: the model.
            optimizer: of its parameters.
            parallel: how the workers share both.

        Raises:
            RuntimeError: the model has other tensors than the checkpoint.
        """
        if self.checkpoint is None:
            return
        model.load_state_dict(parallel.placed(self.checkpoint.model))
        if self.moments:
            restore_optimizer(optimizer, model, parallel.placed(self.checkpoint.optimizer))


def find_beginning(plan: Plan, note: Callable[[str], None]) -> Beginning:
    """Return the run's newest whole checkpoint, else the one that its recipe starts from, else nothing to restore.

    Args:
        plan: the plan.
        note: told about damaged checkpoints that are passed over.

    Raises:
        CheckpointError: the checkpoint that the recipe starts from is damaged.
        StorageError: the store is failing.
    """
    newest = load_newest(plan.run, note)
    if newest is not None:
        return Beginning(newest.state.next_step, newest, moments=True)
    if plan.origin is not None:
        return Beginning(plan.origin.first_step, load_checkpoint(plan.origin.place), plan.origin.everything)
    return Beginning(0)


def check_agreement(first_step: int, collective: Collective) -> None:
    """Make sure that all workers begin at the same step; all of them call it together.

    Raises:
        CheckpointError: they found different checkpoints.
    """
    steps = torch.zeros(collective.size, dtype=torch.int64)
    steps[collective.rank] = first_step
    collective.sum(steps)
    if len(set(steps.tolist())) > 1:
        raise CheckpointError(
            f"the workers found different checkpoints, of the steps {steps.tolist()}. Start again: damaged ones are "
            "marked now. If it stays so, check that storage.uri is a place that all machines share."
        )
