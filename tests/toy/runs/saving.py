"""Checkpoints as the workers of a run save them, at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import Checkpoint
from orchestrator.train.checkpoints.manager import CheckpointWriter
from orchestrator.train.checkpoints.manifest import RunState
from orchestrator.train.checkpoints.write import Polling
from orchestrator.train.parallel.base import SingleWorker
from orchestrator.train.parallel.data_parallel import Replicated

ALL = CheckpointSection(keep=1000)


def alone() -> Replicated:
    """How one worker shares a model with nobody."""
    return Replicated([torch.nn.Parameter(torch.zeros(1))], SingleWorker())


def save_checkpoint(
    run: RunFolder,
    state: RunState,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    metrics: Mapping[str, float] | None = None,
    section: CheckpointSection = ALL,
) -> Location:
    """Save a checkpoint and return its folder."""
    writer = CheckpointWriter(run, 0, 1, uuid4().hex, section)
    writer.save(state, model, optimizer, alone(), metrics)
    writer.close()
    return run.checkpoints / f"step-{state.next_step:08d}"


def state_of(step: int) -> RunState:
    """The state of a run after some steps."""
    return RunState(step, 42, "recipe", "index", "run-id", "toy", {"width": 3}, step / 10)


def tensors_of(step: int) -> dict[str, Tensor]:
    """Tensors of many kinds, different at every step."""
    draw = torch.Generator().manual_seed(step)
    return {
        "weight": torch.randn(7, 5, generator=draw),
        "bias": torch.randn(7, generator=draw),
        "half": torch.randn(3, 4, generator=draw).bfloat16(),
        "counts": torch.tensor([step, 2, 3]),
        "flags": torch.tensor([True, False, True]),
        "temperature": torch.tensor(0.07 + step),
        "nothing": torch.empty(0, 4),
    }


def optimizer_state_of(step: int) -> dict[str, Tensor]:
    """State of an optimiser, different at every step."""
    return {f"exp_avg/{name}": tensor for name, tensor in tensors_of(step + 1000).items() if name != "nothing"}


def save_by(
    workers: int, run: RunFolder, step: int, start: str = "first", ranks: Sequence[int] | None = None, **options: Any
) -> Location:
    """Save a checkpoint as some workers of a run do, in one process; worker 0 comes last, as it waits for the others.

    Args:
        workers: how many there are.
        run: the run.
        step: the step; decides the content.
        start: tells this start of the workers from others.
        ranks: the workers that do their part; all when absent.
        options: of the writers.
    """
    for rank in sorted(range(workers) if ranks is None else ranks, reverse=True):
        writer = CheckpointWriter(run, rank, workers, start, ALL, polling=simulated_polling(), **options)
        writer.save(state_of(step), tensors_of(step), optimizer_state_of(step), alone(), {"loss": 1 / step})
        writer.close()
    return run.checkpoints / f"step-{step:08d}"


def simulated_polling(timeout_s: float = 60.0) -> Polling:
    """Polling in a time that passes only by sleeping."""
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    return Polling(timeout_s, clock=lambda: now_s[0], sleep=sleep)


def rewrite_as_version_two(folder: Location) -> None:
    """Give a checkpoint a manifest of format version 2, which is not supported."""
    files = {name: {"bytes": size, "sha256": ""} for name, size in folder.sizes().items() if name != "manifest.json"}
    (folder / "manifest.json").write(json.dumps({"format_version": 2, "files": files}).encode())


def assert_holds(checkpoint: Checkpoint | None, step: int) -> None:
    """Compare a checkpoint with what was saved."""
    assert checkpoint is not None
    assert checkpoint.state == state_of(step)
    assert_same(checkpoint.model, tensors_of(step))
    assert_same(checkpoint.optimizer, optimizer_state_of(step))


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare tensors bit for bit."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name], tensor), name
