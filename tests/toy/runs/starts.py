"""How runs begin: what a worker restores, from a checkpoint of the run itself, of another run, or an imported one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from official_albef import HEADS
from saving import save_checkpoint

from orchestrator.storage.location import locate
from orchestrator.train.checkpoints.load import optimizer_tensors
from orchestrator.train.checkpoints.manifest import RunState
from orchestrator.train.convert import write_import
from orchestrator.train.parallel.base import SingleWorker
from orchestrator.train.parallel.parallelize import parallelize_model
from orchestrator.train.plan import Plan
from orchestrator.train.resume import find_initial_state
from orchestrator.train.step import build_optimizer
from workloads.contract import KeyedRandom
from workloads.interop.albef_format import FORMAT


def import_official(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write a file in an official layout, `NAME.pth`, and import it as `NAME`."""
    file = folder / f"{name}.pth"
    torch.save(content, file)
    write_import(FORMAT.read(file, HEADS), locate(str(folder / name)), "albef", file.name)


def begun(plan: Plan) -> tuple[torch.nn.Module, torch.optim.Optimizer, int]:
    """Build model and optimiser and restore them as a worker does."""
    beginning = find_initial_state(plan, lambda _: None)
    workload = plan.resolved.entry.create(plan.resolved.workload)
    device = torch.device("cpu")
    model = workload.build(device, KeyedRandom((1,)), pretrained=beginning.pretrained)
    optimizer = build_optimizer(plan.recipe.optimizer, workload.parameter_groups())
    parallel = parallelize_model(plan.recipe, workload, model, SingleWorker(), device)
    beginning.restore(model, optimizer, parallel)
    return model, optimizer, beginning.first_step


def save(plan: Plan, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Save a checkpoint of a run after some steps, seven to an epoch; return its folder."""
    config = plan.resolved.workload.model_dump(mode="json")
    state = RunState(step, 42, plan.resolved.digest(), plan.data.digest, "id", plan.recipe.workload, config, step / 7)
    return save_checkpoint(plan.run, state, model.state_dict(), optimizer_tensors(optimizer, model)).path
