"""Measures a model's footprint: runs small micro-batches of it on the CPU and extrapolates to the recipe's size.

A run has phases in which steps do different work, for example only some have adversarial passes. Each is measured:
live bytes after every operation, and FLOPs, including those of kernels that only CPUs have.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from orchestrator.config.cluster import Footprint
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.plan.profile_inputs import NotMeasuredError, Prepared, cpus_here
from orchestrator.train.step import precision_context
from workloads.contract import Clock, KeyedRandom, Workload


class MemoryLine(NamedTuple):
    """Bytes as a linear function of the micro-batch size."""

    fixed: int
    per_sample: int

    def at(self, size: int) -> int:
        """Return the bytes at a micro-batch size."""
        return self.fixed + self.per_sample * size


class MicroBatchRun(NamedTuple):
    """A micro-batch that was run: its size in samples, and the live bytes after each of its operations."""

    size: int
    timeline: Sequence[int]


def extrapolate(runs: Sequence[MicroBatchRun], size: int) -> MemoryLine:
    """Return the live bytes at the operation where a micro-batch of some size peaks, as a function of the size.

    Micro-batches of different sizes do the same operations, so every operation has a linear function of its own; which
    one is the highest depends on the size. Where the operations differ, the function goes through the peaks.

    Args:
        runs: one, or a smaller and a larger one.
        size: samples of the micro-batch to extrapolate to.
    """
    small, large = runs[0], runs[-1]
    if small.size == large.size:
        return MemoryLine(0, -(-max(large.timeline) // large.size))
    low, high = np.asarray(small.timeline, dtype=np.float64), np.asarray(large.timeline, dtype=np.float64)
    if len(low) != len(high):
        low, high = low.max(keepdims=True), high.max(keepdims=True)
    per_sample = (high - low) / (large.size - small.size)
    fixed = low - per_sample * small.size
    highest = int(np.argmax(fixed + per_sample * size))
    return MemoryLine(round(fixed[highest]), round(per_sample[highest]))


SMALL = 2
"""Samples of the smaller micro-batch: two, so that a loss that draws negatives from other samples finds some."""

LARGE = (4, 16)
LARGE_BYTES = 10**9
"""Samples of the larger micro-batch, minimum and maximum, and the bytes of activations that it should stay below.

The larger it is, the less the random number of masked tokens matters.
"""

TIMED_S = 5.0
"""Longest expected time, in seconds, of a micro-batch of the maximum size for its speed to be measured."""

ROOM_FOR_PASSES = 2
"""Expected memory of small micro-batches, as a multiple of the trained parameters'."""

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class MicroBatchCost:
    """The cost of a micro-batch: its live bytes after each operation, and its FLOPs."""

    run: MicroBatchRun
    flops: int


def measure_footprint(resolved: ResolvedRecipe, prepared: Prepared, available_bytes: int) -> Footprint:
    """Build the recipe's model without pretrained weights and run micro-batches of it on this machine's CPUs.

    Args:
        resolved: the recipe.
        prepared: features to run on.
        available_bytes: main memory that may be used.

    Raises:
        NotMeasuredError: the model needs more memory.
    """
    began = perf_counter()
    torch.set_num_threads(cpus_here())
    model = _ProfiledModel(resolved, prepared)
    model.reserve_gradients(available_bytes)
    size = resolved.recipe.batch.micro_batch_size
    with torch.compiler.set_stance("force_eager"):
        run_phases = phases(model.workload)
        costs = _count_phases(model, run_phases, size)
        rate = None if resolved.recipe.scale.use_gpu else model.samples_per_s(size, run_phases[-1].clock)
    lines = [extrapolate([cost.run for cost in phase_costs], size) for phase_costs in costs]
    highest = max(lines, key=lambda line: line.at(size))
    return Footprint(
        trained_bytes=model.trained_bytes,
        kept_bytes=model.kept_bytes,
        buffer_bytes=model.buffer_bytes,
        fixed_bytes=highest.fixed,
        sample_bytes=highest.per_sample,
        flop_per_sample=sum(
            phase.share * phase_costs[-1].flops / phase_costs[-1].run.size
            for phase, phase_costs in zip(run_phases, costs, strict=True)
        ),
        cpu_samples_per_s=rate,
        cpus=torch.get_num_threads(),
        sizes=tuple(dict.fromkeys(cost.run.size for cost in costs[0])),
        seconds=perf_counter() - began,
    )


def _count_phases(model: _ProfiledModel, run_phases: Sequence[Phase], size: int) -> list[list[MicroBatchCost]]:
    """Run a smaller and a larger micro-batch in each phase; where both have the same size, only one."""
    small, large = min(SMALL, size), 0
    costs = []
    for phase in run_phases:
        first = model.count(small, phase.clock)
        large = large or _large(first, size)
        costs.append([first] if large == small else [first, model.count(large, phase.clock)])
    return costs


def _large(small: MicroBatchCost, size: int) -> int:
    """Return the size of the larger micro-batch, by the memory of the smaller one."""
    fewest, most = LARGE
    affordable = LARGE_BYTES * small.run.size // max(*small.run.timeline, 1)
    return min(size, max(fewest, min(most, affordable)))


class _ProfiledModel:
    """A built model with allocated gradients, so that all that a micro-batch allocates are its activations."""

    def __init__(self, resolved: ResolvedRecipe, prepared: Prepared) -> None:
        self.workload = resolved.entry.create(resolved.workload)
        self._precision, self._prepared = resolved.recipe.precision, prepared
        self._module = self.workload.build(CPU, KeyedRandom((resolved.recipe.seed, "build")), pretrained=False)
        if self._precision == "float64":
            self._module.double()
        self._trained = {each for group in self.workload.parameter_groups() for each in group.parameters}
        self.trained_bytes = _bytes(self._trained)
        self.kept_bytes = _bytes(each for each in self._module.parameters() if each not in self._trained)
        self.buffer_bytes = _bytes(self._module.buffers())

    def reserve_gradients(self, available_bytes: int) -> None:
        """Allocate the gradients.

        Raises:
            NotMeasuredError: gradients and passes would not fit the available memory.
        """
        gradients, passes = self.trained_bytes, ROOM_FOR_PASSES * self.trained_bytes
        if gradients + passes > available_bytes:
            raise NotMeasuredError(
                f"running it needs about {(gradients + passes) / 1e9:.1f} GB of main memory besides the model; "
                f"this machine has {available_bytes / 1e9:.1f} GB to spare"
            )
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)

    def count(self, size: int, clock: Clock) -> MicroBatchCost:
        """Run a micro-batch and count its live bytes and FLOPs."""
        self.workload.begin_step(clock)
        gradients = [each.grad for each in self._trained if each.grad is not None]
        live = LiveBytes([*self._module.parameters(), *self._module.buffers(), *gradients])
        with live, flop_counter() as counter:
            self.run(size, clock)
        return MicroBatchCost(MicroBatchRun(size, live.timeline), int(counter.get_total_flops()))

    def samples_per_s(self, size: int, clock: Clock) -> float:
        """Return the throughput of this machine, without counting; by a small micro-batch where a larger takes long."""
        small, larger = (min(each, size) for each in LARGE)
        seconds = _seconds(lambda: self.run(small, clock))
        if seconds / small * larger > TIMED_S:
            return small / seconds
        return larger / min(_seconds(lambda: self.run(larger, clock)) for _ in range(2))

    def run(self, size: int, clock: Clock) -> None:
        """Run the forward and backward passes of a micro-batch, as a worker does."""
        torch.manual_seed(clock.draw.child("dropout").seed())
        batch = {name: torch.from_numpy(array).clone() for name, array in self._prepared.batch(size).items()}
        with precision_context(self._precision, CPU):
            self.workload.micro_step(batch, clock, _backward)


def _backward(loss: Tensor, retain_graph: bool = False, final: bool = False) -> None:
    loss.backward(retain_graph=retain_graph)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def _seconds(action: Callable[[], object]) -> float:
    began = perf_counter()
    action()
    return perf_counter() - began


SAMPLED_CLOCKS = 100
STEPS = 10_000
EPOCHS = 100
"""Steps and epochs of a hypothetical run: long enough for ramps over epochs to end within its first hundredth."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run whose steps do the same work.

    Args:
        clock: of its last sampled step.
        share: of the run's steps.
    """

    clock: Clock
    share: float


def phases(workload: Workload) -> list[Phase]:
    """Return the phases of a run; steps that report metrics of the same names belong to one phase.

    A phase's clock is that of its last step, where everything that grows over a run is at its largest.

    Args:
        workload: already built.
    """
    by_metrics: dict[tuple[str, ...], list[Clock]] = {}
    for number in range(1, SAMPLED_CLOCKS + 1):
        clock = clock_at(number / SAMPLED_CLOCKS)
        by_metrics.setdefault(tuple(sorted(workload.empty_result(clock).metrics)), []).append(clock)
    return [Phase(clocks[-1], len(clocks) / SAMPLED_CLOCKS) for clocks in by_metrics.values()]


def clock_at(share: float) -> Clock:
    """Return the clock of the last step in the first part of a run."""
    step = round(share * STEPS) - 1
    return Clock(step, STEPS, step, STEPS // EPOCHS, KeyedRandom((0, "footprint", step)))


def flop_counter() -> FlopCounterMode:
    """Return a context that counts the FLOPs of matrix products, convolutions and attention.

    torch's own counter does not know a CPU's kernels for attention and for linear layers (oneDNN).
    """
    return FlopCounterMode(display=False, custom_mapping=dict(_cpu_kernels()))


def count_flops(action: Callable[[], object]) -> int:
    """Return the FLOPs of an action."""
    with flop_counter() as counter:
        action()
    return int(counter.get_total_flops())


def _cpu_kernels() -> Mapping[Any, Callable[..., int]]:
    aten = torch.ops.aten
    known: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        known[torch.ops.mkldnn._linear_pointwise] = _linear
    return known


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _linear(states: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * int(math.prod(states)) * int(weight[0])


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations allocate while it is entered; each storage counts once, views do not.

    It sees forward and backward passes, what autograd saves and what is temporary. What a kernel allocates and frees
    before it returns is not seen.

    Args:
        known: tensors that existed before, such as parameters; they do not count.

    Attributes:
        timeline: live bytes after each operation.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.timeline: list[int] = []
        self._live = 0
        self._seen: Any = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    @property
    def peak(self) -> int:
        """The maximum of the live bytes."""
        return max(self.timeline, default=0)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count its new tensors."""
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._add, result)
        self.timeline.append(self._live)
        return result

    def _add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = True
            self._live += storage.nbytes()
            weakref.finalize(storage, self._subtract, storage.nbytes())
        return tensor

    def _subtract(self, size_bytes: int) -> None:
        self._live -= size_bytes
