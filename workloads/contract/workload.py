"""A workload on a training worker: its model, its steps, its parameters, and how it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from workloads.contract.reporting import Evaluation
from workloads.contract.samples import Batch, KeyedRandom, Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Backward = Callable[..., None]
"""`backward(loss, retain_graph=False, final=False)`: accumulates the gradient of a scalar loss; may be called often.

`final=True` promises that no gradient changes in this micro-batch after this call, so that gradients may be sent to
the other workers while the call is still computing the rest. The promise costs nothing to make and may be left out.
"""


class WorkloadError(Exception):
    """A fault that the user can fix; the message names the thing, the location and the fix."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Where training stands; schedules are functions of it.

    Args:
        step: the current step, from 0.
        steps: steps in the whole run.
        samples: samples consumed before this step.
        epoch_samples: samples in one epoch.
        draw: randomness keyed by (seed, step), or by (seed, step, micro-batch) inside `micro_step`.
    """

    step: int
    steps: int
    samples: int
    epoch_samples: int
    draw: KeyedRandom

    @property
    def epoch(self) -> float:
        """Epochs completed, with the fraction of the current one."""
        return self.samples / self.epoch_samples

    @property
    def progress(self) -> float:
        """Share of the run's steps already done, in [0, 1)."""
        return self.step / self.steps


@dataclass(frozen=True, slots=True)
class MicroResult:
    """What one micro-batch produced.

    Args:
        metrics: detached scalars; averaged over the step's micro-batches, weighted by their samples.
        shared: detached tensors, one row per sample, that every worker needs at the end of the step.
    """

    metrics: Mapping[str, Tensor]
    shared: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share optimiser settings.

    Args:
        name: shown in logs.
        parameters: the tensors.
        weight_decay: whether the recipe's weight decay applies.
        learning_rate_scale: factor on the recipe's learning rate.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    weight_decay: bool
    learning_rate_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """What a part of a model starts from, by the names of its tensors.

    Args:
        key: the recipe key that names the source, for example model.text_weights.
        source: the key's value; None when the part starts at random.
        used: parameters and statistics that have the source's values.
        missing: those that the source does not have; they start at random.
        left_over: tensors of the source that the model does not have.
        notes: what else the user should know, one sentence each.
    """

    key: str
    source: str | None
    used: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a summary in one line."""
        if self.source is None:
            return "; ".join((f"{self.key}: null; all {len(self.missing)} parameters start at random", *self.notes))
        summary = (
            f"{self.key}: {self.source}: {len(self.used)} tensors used, {len(self.missing)} parameters start at random"
            f"{_some(self.missing)}, {len(self.left_over)} tensors left over{_some(self.left_over)}"
        )
        return "; ".join((summary, *self.notes))


def _some(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


class Workload(Protocol):
    """A model and its objectives. One instance lives on each training worker."""

    def build(self, device: torch.device, draw: KeyedRandom, pretrained: bool = True) -> nn.Module:
        """Create everything that training changes (student, teacher, queues, heads) as one module.

        The module's state_dict is the model part of a checkpoint.

        Args:
            device: where the module lives.
            draw: the key of the initial weights; the global generator may be seeded from it.
            pretrained: whether to load pretrained weights; not needed when a checkpoint follows.

        Raises:
            WorkloadError: when pretrained weights cannot be found or do not fit.
        """
        ...

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return the trained parameters in a stable order."""
        ...

    def shard_units(self) -> Sequence[nn.Module]:
        """Return the modules of student and teacher whose parameters are gathered together when workers hold shards.

        Repeated blocks of similar size, none inside another; what they leave out is gathered as one more unit. After
        sharding `parameter_groups` and `begin_step` see the same shards of student and teacher (DTensors), as do the
        optimiser and `state_dict`; `micro_step` and `evaluate` see whole parameters.
        """
        ...

    def begin_step(self, clock: Clock) -> None:
        """Prepare a step, before its micro-batches: for example move the teacher."""
        ...

    def micro_step(self, batch: Batch, clock: Clock, backward: Backward) -> MicroResult:
        """Run one micro-batch and call `backward` on its losses (mean over the samples of the micro-batch)."""
        ...

    def empty_result(self, clock: Clock) -> MicroResult:
        """Return what `micro_step` would for a micro-batch without samples: zero metrics, shared tensors [0, ...].

        A worker whose samples were all bad still has to send messages of the same names and shapes as the others.
        """
        ...

    def end_step(self, clock: Clock, shared: Mapping[str, Tensor]) -> None:
        """Finish a step, after the optimiser: `shared` holds the step's rows in global order."""
        ...

    def evaluate(self, samples: Sequence[Sample], options: EvaluationOptions) -> Evaluation:
        """Measure the model on held-out samples; those that cannot be used are left out and listed.

        Raises:
            WorkloadError: when none can be used.
        """
        ...

    def export(self, folder: Path) -> None:
        """Write the trained model (safetensors, config, tokenizer files) into an empty folder."""
        ...


@runtime_checkable
class PretrainedWorkload(Protocol):
    """A workload that may start from pretrained weights and tells what became of them. Offering this is optional."""

    @property
    def initial_weights(self) -> Sequence[InitialWeights]:
        """Of each part of the model that `build` gave pretrained weights; empty without `pretrained`."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How to evaluate.

    Args:
        batch_size: samples per forward pass.
        rerank: candidates per query that a second stage of the model ranks again; 0 for the first stage alone.
        gallery: examples to show, for instance queries with their matches.
        heat_maps: examples to show with maps of where the model looks.
    """

    batch_size: int = 64
    rerank: int = 0
    gallery: int = 0
    heat_maps: int = 0
