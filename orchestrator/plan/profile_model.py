"""Running small micro-batches of a recipe's model on the CPU, and what that says about large ones."""

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

# From the memory of small micro-batches to that of a large one.


class Line(NamedTuple):
    """Bytes that are linear in the size of a micro-batch."""

    fixed: int
    per_sample: int

    def at(self, size: int) -> int:
        """Return the bytes at a size."""
        return self.fixed + self.per_sample * size


class Run(NamedTuple):
    """A micro-batch that was run: its size, and the bytes alive after each of its operations."""

    size: int
    timeline: Sequence[int]


def extrapolate(runs: Sequence[Run], size: int) -> Line:
    """Return the line through the moment at which a micro-batch of some size has the most bytes alive.

    Micro-batches of different sizes do the same operations, so every operation has a line of its own; which one is
    the highest depends on the size. Where the operations differ, the line goes through the highest points.

    Args:
        runs: one, or a smaller and a larger one.
        size: of the micro-batch that is asked about.
    """
    small, large = runs[0], runs[-1]
    if small.size == large.size:
        return Line(0, -(-max(large.timeline) // large.size))
    low, high = np.asarray(small.timeline, dtype=np.float64), np.asarray(large.timeline, dtype=np.float64)
    if len(low) != len(high):
        low, high = low.max(keepdims=True), high.max(keepdims=True)
    per_sample = (high - low) / (large.size - small.size)
    fixed = low - per_sample * small.size
    highest = int(np.argmax(fixed + per_sample * size))
    return Line(round(fixed[highest]), round(per_sample[highest]))


# Running small micro-batches of a recipe's model on the CPU, and what that says about large ones.


SMALL = 2
"""Samples of the smaller micro-batch: two, so that what looks for negatives among other samples finds some."""

LARGE = (4, 16)
LARGE_BYTES = 10**9
"""Samples of the larger micro-batch, fewest and most, and the activations that it should stay below.

The larger it is the less it matters that chance decides how many tokens are masked.
"""

TIMED_S = 5.0
"""Longest time that a micro-batch of the most samples may be expected to take, for its speed to be measured."""

ROOM_FOR_PASSES = 2
"""Memory that small micro-batches are expected to need, in multiples of the trained parameters'."""

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Counted:
    """What a micro-batch took: the bytes after each operation, and its arithmetic."""

    run: Run
    flops: int


def measure_footprint(resolved: ResolvedRecipe, prepared: Prepared, available_bytes: int) -> Footprint:
    """Build the recipe's model without pretrained weights, and run micro-batches of it on this machine's CPUs.

    Args:
        resolved: the recipe.
        prepared: features to run on.
        available_bytes: main memory that may be used.

    Raises:
        NotMeasuredError: that is too little memory.
    """
    began = perf_counter()
    torch.set_num_threads(cpus_here())
    model = _Model(resolved, prepared)
    model.check_room(available_bytes)
    size = resolved.recipe.batch.micro_batch_size
    with torch.compiler.set_stance("force_eager"):
        parts = phases(model.workload)
        counted = _count_phases(model, parts, size)
        rate = None if resolved.recipe.scale.use_gpu else model.samples_per_s(size, parts[-1].clock)
    lines = [extrapolate([one.run for one in runs], size) for runs in counted]
    highest = max(lines, key=lambda line: line.at(size))
    return Footprint(
        trained_bytes=model.trained_bytes,
        kept_bytes=model.kept_bytes,
        buffer_bytes=model.buffer_bytes,
        fixed_bytes=highest.fixed,
        sample_bytes=highest.per_sample,
        flop_per_sample=sum(
            part.share * runs[-1].flops / runs[-1].run.size for part, runs in zip(parts, counted, strict=True)
        ),
        cpu_samples_per_s=rate,
        cpus=torch.get_num_threads(),
        sizes=tuple(dict.fromkeys(one.run.size for one in counted[0])),
        seconds=perf_counter() - began,
    )


def _count_phases(model: _Model, parts: Sequence[Phase], size: int) -> list[list[Counted]]:
    """Run a smaller and a larger micro-batch in each phase."""
    small, large = min(SMALL, size), 0
    counted = []
    for part in parts:
        first = model.count(small, part.clock)
        large = large or _large(first, size)
        counted.append([first] if large == small else [first, model.count(large, part.clock)])
    return counted


def _large(small: Counted, size: int) -> int:
    """Return the size of the larger micro-batch, by what the smaller one took."""
    fewest, most = LARGE
    affordable = LARGE_BYTES * small.run.size // max(*small.run.timeline, 1)
    return min(size, max(fewest, min(most, affordable)))


class _Model:
    """A built model whose gradients have their place, so that what a micro-batch allocates are its activations."""

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

    def check_room(self, available_bytes: int) -> None:
        """Make room for gradients.

        Raises:
            NotMeasuredError: the passes would not fit into so much memory.
        """
        gradients, passes = self.trained_bytes, ROOM_FOR_PASSES * self.trained_bytes
        if gradients + passes > available_bytes:
            raise NotMeasuredError(
                f"running it needs about {(gradients + passes) / 1e9:.1f} GB of main memory beside the model; "
                f"this machine has {available_bytes / 1e9:.1f} GB to spare"
            )
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)

    def count(self, size: int, clock: Clock) -> Counted:
        """Run a micro-batch and count what it takes."""
        self.workload.begin_step(clock)
        gradients = [each.grad for each in self._trained if each.grad is not None]
        live = LiveBytes([*self._module.parameters(), *self._module.buffers(), *gradients])
        with live, flop_counter() as counter:
            self.run(size, clock)
        return Counted(Run(size, live.timeline), int(counter.get_total_flops()))

    def samples_per_s(self, size: int, clock: Clock) -> float:
        """Return how fast this machine trains, without counting; a micro-batch that would take long is run in part."""
        small, larger = (min(each, size) for each in LARGE)
        took = _seconds(lambda: self.run(small, clock))
        if took / small * larger > TIMED_S:
            return small / took
        return larger / min(_seconds(lambda: self.run(larger, clock)) for _ in range(2))

    def run(self, size: int, clock: Clock) -> None:
        """Run a micro-batch, as a worker does."""
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


# The phases of a run in which a step does different work, such as one with adversarial passes.


LOOKS = 100
STEPS = 10_000
EPOCHS = 100
"""Steps and epochs of the run that is imagined: long enough for ramps over epochs to be over after a hundredth."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run.

    Args:
        clock: a moment in it.
        share: of the run's steps.
    """

    clock: Clock
    share: float


def phases(workload: Workload) -> list[Phase]:
    """Return the phases of a run; moments whose steps report metrics of the same names belong to one.

    The moment is the last one, when whatever grows over a run has grown.

    Args:
        workload: built already.
    """
    found: dict[tuple[str, ...], list[Clock]] = {}
    for look in range(1, LOOKS + 1):
        clock = moment(look / LOOKS)
        found.setdefault(tuple(sorted(workload.empty_result(clock).metrics)), []).append(clock)
    return [Phase(clocks[-1], len(clocks) / LOOKS) for clocks in found.values()]


def moment(share: float) -> Clock:
    """Return the clock of the last step in the first part of a run."""
    step = round(share * STEPS) - 1
    return Clock(step, STEPS, step, STEPS // EPOCHS, KeyedRandom((0, "footprint", step)))


# Counting floating-point operations, those that only a CPU's kernels do included.


def flop_counter() -> FlopCounterMode:
    """Return a context that counts the operations of matrix products, convolutions and attention.

    torch's own counter does not know the kernels of a CPU for attention and for linear maps (oneDNN).
    """
    return FlopCounterMode(display=False, custom_mapping=dict(_cpu_kernels()))


def count_flops(action: Callable[[], object]) -> int:
    """Return the floating-point operations of an action."""
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


# The bytes of the tensors that are alive, after every operation of a piece of code.


class LiveBytes(TorchDispatchMode):
    """Counts what operations allocate while it is entered, by storage: views cost nothing, each storage counts once.

    It sees forward and backward passes alike, and what autograd saves as well as what comes and goes within them. What
    a kernel allocates for itself and gives back before it returns stays unseen.

    Args:
        known: tensors that were there before, such as parameters; they do not count.

    Attributes:
        timeline: bytes alive after each operation.
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
        """Return the most bytes that were ever alive."""
        return max(self.timeline, default=0)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry out an operation and look at what it made."""
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._enter, result)
        self.timeline.append(self._live)
        return result

    def _enter(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = True
            self._live += storage.nbytes()
            weakref.finalize(storage, self._leave, storage.nbytes())
        return tensor

    def _leave(self, size_bytes: int) -> None:
        self._live -= size_bytes
