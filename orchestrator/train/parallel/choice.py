"""The choice between the ways of sharing a model."""

from __future__ import annotations

import torch
from torch import nn

from orchestrator.config.recipe import Recipe
from orchestrator.train.collective import Collective
from orchestrator.train.parallel.protocol import Parallel
from orchestrator.train.parallel.replicated import Replicated
from workloads.contract import Workload


def share_model(
    recipe: Recipe, workload: Workload, model: nn.Module, collective: Collective, device: torch.device
) -> Parallel:
    """Share a built model among the workers as the recipe says; a single worker holds all of it.

    The parameter groups of the workload must be asked for afterwards: sharding replaces parameters.
    """
    if recipe.scale.parallel == "sharded" and collective.size > 1:
        from orchestrator.train.parallel.sharded import Sharded

        return Sharded(model, workload.shard_units(), collective, device)
    trained = {parameter for group in workload.parameter_groups() for parameter in group.parameters}
    return Replicated([parameter for parameter in model.parameters() if parameter in trained], collective)
