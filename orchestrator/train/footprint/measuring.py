"""Running small micro-batches of a recipe's model on the CPU, and what that says about large ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from orchestrator.config.cluster import Footprint
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.train.footprint.extrapolation import Run, extrapolate
from orchestrator.train.footprint.flops import flop_counter
from orchestrator.train.footprint.live_bytes import LiveBytes
from orchestrator.train.footprint.phases import Phase, phases
from orchestrator.train.footprint.preparing import NotMeasuredError, Prepared, cpus_here
from orchestrator.train.step import precision_context
from workloads.contract import Clock, KeyedRandom

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
