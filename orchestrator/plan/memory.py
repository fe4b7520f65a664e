"""Whether a micro-batch fits the memory of a GPU, or of a machine: an estimate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.config.cluster import Footprint
from orchestrator.config.recipe import Recipe
from orchestrator.plan.machines import NodeType

GB = 10**9

CUDA_BYTES = 1_500_000_000
"""Allowance for what is on a GPU besides tensors: CUDA's context, cuBLAS's workspace and NCCL's buffers."""

FRAGMENTATION = 0.10
"""Allowance for what the allocator cannot use of what it holds, as a share of the activations."""

COMFORTABLE, HOPELESS = 0.90, 1.10
"""Shares of a GPU's memory up to which an estimate is fine, and from which on it is taken for certain."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What one worker needs at its peak, in bytes.

    Args:
        model: parameters and buffers.
        gradients: of the trained parameters.
        optimizer: state of AdamW.
        activations: of a micro-batch, with the allocator's losses.
        runtime: on a GPU, what CUDA and its libraries take.
    """

    model: int
    gradients: int
    optimizer: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        """All together."""
        return self.model + self.gradients + self.optimizer + self.activations + self.runtime


def memory_need(footprint: Footprint, recipe: Recipe, workers: int) -> MemoryNeed:
    """Estimate what one of several workers needs during the passes of a step, when it needs most.

    Sharded workers hold all values and gradients during the passes, and besides them their share of the values and of
    the optimizer state.

    Args:
        footprint: the model.
        recipe: the recipe.
        workers: how many share it.
    """
    shares = workers if recipe.scale.parallel == "sharded" else 1
    values = footprint.trained_bytes + footprint.kept_bytes
    own_shard = values // shares if shares > 1 else 0
    activations = footprint.activation_bytes(recipe.batch.micro_batch_size)
    return MemoryNeed(
        model=values + own_shard + footprint.buffer_bytes,
        gradients=footprint.trained_bytes,
        optimizer=2 * footprint.trained_bytes // shares,
        activations=round(activations * (1 + FRAGMENTATION)),
        runtime=CUDA_BYTES if recipe.scale.use_gpu else 0,
    )


def largest_micro_batch(footprint: Footprint, recipe: Recipe, workers: int, memory_bytes: float) -> int:
    """Return about how many samples of a micro-batch fit comfortably; 0 when not even one does."""
    need = memory_need(footprint, recipe, workers)
    left = memory_bytes * COMFORTABLE - (need.total - need.activations)
    samples = (left / (1 + FRAGMENTATION) - footprint.fixed_bytes) / max(footprint.sample_bytes, 1)
    return max(0, int(samples))


def check_gpu_memory(footprint: Footprint, recipe: Recipe, node_types: Sequence[NodeType]) -> Iterator[Finding]:
    """Yield, for each type of GPU that the cluster has, whether a micro-batch fits it."""
    workers = recipe.scale.min_workers
    need = memory_need(footprint, recipe, workers)
    types = {kind.accelerator.name: kind.accelerator for kind in node_types if kind.accelerator and kind.group.most}
    for accelerator in types.values():
        share = need.total / (accelerator.memory_gb * GB)
        estimate = (
            f"about {need.total / GB:.0f} of {accelerator.memory_gb:g} GB of the {accelerator.name}: {_parts(need)}"
        )
        fitting = largest_micro_batch(footprint, recipe, workers, accelerator.memory_gb * GB)
        if share <= COMFORTABLE:
            yield passed("gpu memory", f"{estimate} (estimate)")
        elif share <= HOPELESS:
            yield warned("gpu memory", f"{estimate} (estimate, and close)", _fix(recipe, fitting))
        else:
            yield failed("gpu memory", f"{estimate} (estimate)", _fix(recipe, fitting))
    if not types:
        fix = f"Name the machine's type and its GPU in a price table, so that {need.total / GB:.0f} GB can be compared."
        yield warned("gpu memory", f"about {need.total / GB:.0f} GB are needed; the GPUs' memory is unknown", fix)


def check_main_memory(footprint: Footprint, recipe: Recipe, node_types: Sequence[NodeType]) -> Iterator[Finding]:
    """Yield whether workers on CPUs fit their machines."""
    need = memory_need(footprint, recipe, recipe.scale.min_workers)
    estimate = f"about {need.total / GB:.1f} GB a worker: {_parts(need)} (estimate)"
    for kind in node_types:
        workers = min(kind.worker_slots(recipe.scale.cpus_per_worker, False), recipe.scale.max_workers)
        if kind.group.most and kind.memory_gb and workers * need.total > kind.memory_gb * GB:
            fix = "Raise scale.cpus_per_worker, so that fewer share a machine, or lower batch.micro_batch_size."
            full = f"{estimate}; {workers} workers on a {kind.group.machine} with {kind.memory_gb:g} GB"
            yield warned("memory", full, fix)
            return
    yield passed("memory", estimate)


def _parts(need: MemoryNeed) -> str:
    parts = {
        "parameters and buffers": need.model,
        "gradients": need.gradients,
        "AdamW": need.optimizer,
        "activations": need.activations,
        "CUDA": need.runtime,
    }
    return ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items() if size)


def _fix(recipe: Recipe, fitting: int) -> str:
    others = "let the workload compute activations again if it can (albef: compute.gradient_checkpointing=true)"
    if recipe.precision == "float32":
        others += ", set precision to bfloat16"
    if not fitting:
        return f"Use GPUs with more memory, share the model out (scale.parallel=sharded), or {others}."
    return f"Set batch.micro_batch_size to about {fitting} and raise batch.micro_batches, or {others}."
