"""Applies the recipe's parallelism to a built model: data parallel or fully sharded."""

from __future__ import annotations

import torch
from torch import nn

from orchestrator.config.recipe import Recipe
from orchestrator.train.parallel.base import Collective, Parallel
from orchestrator.train.parallel.data_parallel import Replicated
from workloads.contract import Workload


def parallelize_model(
    recipe: Recipe, workload: Workload, model: nn.Module, collective: Collective, device: torch.device
) -> Parallel:
    """Share a built model among the workers as `scale.parallel` says; a single worker holds all of it.

    The parameter groups of the workload must be read afterwards: sharding replaces parameters.
    """
    if recipe.scale.parallel == "sharded" and collective.size > 1:
        from orchestrator.train.parallel.fsdp import Sharded  # FSDP2 takes a second to import

        return Sharded(model, workload.shard_units(), collective, device)
    trained = {parameter for group in workload.parameter_groups() for parameter in group.parameters}
    return Replicated([parameter for parameter in model.parameters() if parameter in trained], collective)
