"""What the orchestrator and a workload promise each other.

The orchestrator streams samples, runs workers, saves checkpoints and tracks runs; it knows no model.
A workload turns samples into tensors and losses; it knows no cluster. They meet in this file only.

One training step, as the orchestrator's worker drives it:

    begin_step(clock)                     once: teacher update
    micro_step(batch, clock, backward)    per micro-batch of this worker; gradients accumulate
    ... gradients are summed over workers, the optimiser steps ...
    end_step(clock, shared)               once: every worker sees the whole step's shared tensors

A workload's result may depend on the micro-batch and on `clock.draw`, never on the worker that ran it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Features = Mapping[str, np.ndarray]
"""One transformed sample: named arrays, each of the same shape and dtype for every sample."""

Batch = Mapping[str, "Tensor"]
"""A micro-batch: the features of its samples stacked along a new first dimension, on the worker's device."""

Backward = Callable[..., None]
"""`backward(loss, retain_graph=False, final=False)`: accumulates the gradient of a scalar loss; may be called often.

`final=True` promises that no gradient changes in this micro-batch after this call, so that gradients may be sent to
the other workers while the call is still computing the rest. The promise costs nothing to make and may be left out.
"""


class Section(BaseModel):
    """Base of every part of a recipe: immutable, strictly typed, no unknown keys.

    Strict means that no value is converted between types, save an integer where a float is expected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BadSample(Exception):
    """A sample that cannot be used; it is skipped and counted, and no other sample moves.

    Args:
        reason: a short class of fault, counted by value (for example "image is truncated").
        detail: what exactly was found.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class WorkloadError(Exception):
    """A fault that the user can fix; the message names the thing, the location and the fix."""


@dataclass(frozen=True, slots=True)
class KeyedRandom:
    """Randomness as a pure function of a key such as (seed, step, micro-batch, purpose).

    Equal keys give equal draws on every machine, whichever worker asks and however often.
    """

    key: tuple[int | str, ...]

    def child(self, *more: int | str) -> KeyedRandom:
        """Return the randomness of a longer key."""
        return KeyedRandom(self.key + more)

    def seed(self) -> int:
        """Return 63 bits derived from the key, for generators that want an integer."""
        return int.from_bytes(self._digest()[:8], "little") >> 1

    def numpy(self) -> np.random.Generator:
        """Return a fresh NumPy generator for this key."""
        return np.random.Generator(np.random.Philox(key=np.frombuffer(self._digest(), dtype=np.uint64)))

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a fresh torch generator for this key on a device."""
        import torch

        return torch.Generator(device=device).manual_seed(self.seed())

    def _digest(self) -> bytes:
        return hashlib.blake2b(repr(self.key).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its captions, as stored.

    Args:
        key: unique within its source.
        image: the encoded image file.
        captions: at least one.
        fields: all else that was stored with them (tags, concept, style ...).
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)


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
class Panel:
    """A section of a run's report that draws metrics: a heading and, where needed, a sentence."""

    title: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric that a workload reports, and how the terminal, the report and a sweep show it.

    Args:
        name: as `micro_step` or `evaluate` returns it.
        title: what people call it, the heading of its chart; metrics of equal title share one.
        unit: of its values as people see them, for example "loss (nats)" or "recall (%)".
        share: whether the values are shares in [0, 1], which people see as percentages.
        goal: which way is good, "min" or "max"; None when neither is.
        panel: where the report draws it; None for nowhere.
        label: a short name, for the terminal and for its line in a shared chart.
        on_terminal: whether it stands on the terminal's progress line.
        headline: whether it stands at the top of the report; of several evaluation metrics, the best one does.
        chance: name of the metric, reported next to this one, that says what guessing would reach.
        noisy: whether single values say little, so that a chart needs a smoothed line.
        from_zero: whether the axis of its chart starts at zero.
    """

    name: str
    title: str
    unit: str = ""
    share: bool = False
    goal: Literal["min", "max"] | None = None
    panel: Panel | None = None
    label: str = ""
    on_terminal: bool = False
    headline: bool = False
    chance: str = ""
    noisy: bool = False
    from_zero: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedMetrics:
    """The metrics that a run reports, known before anything is built.

    Args:
        steps: that `micro_step` reports in every step.
        some_steps: that it reports in a part of the run only.
        evaluation: that `evaluate` reports while training, without re-ranking.
        final_evaluation: what it reports beyond these after the training, as `fuseray evaluate` asks for it.
        step_hooks: what `begin_step` and `end_step` do, as the report names the time that they take.
    """

    steps: tuple[Metric, ...]
    some_steps: tuple[Metric, ...] = ()
    evaluation: tuple[Metric, ...] = ()
    final_evaluation: tuple[Metric, ...] = ()
    step_hooks: str = "begin and end of steps"


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table: its name, and per column the name of a metric; one that was not measured leaves a gap."""

    name: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Metrics of an evaluation as a table. A row with the chance levels follows where the metrics declare them.

    Args:
        title: what the table is about.
        row_heading: what the names of the rows are, for example "Ranking".
        columns: their headings.
        rows: one metric per column.
        text: what the reader should know.
    """

    title: str
    row_heading: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """The image of an evaluated sample.

    Args:
        index: row of the sample among those evaluated.
        text: written beneath it.
        score: what the model gave it; None when it was not scored.
        correct: whether it is a right answer; None when that is not asked.
        map_HW: where the model looks, in [0, 1], laid over the image; None for the image alone. Not compared.
    """

    index: int
    text: str = ""
    score: float | None = None
    correct: bool | None = None
    map_HW: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """A text, for example a query, and the pictures that belong to it."""

    text: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Examples of what a model does: a section of the report with a heading, a text and rows of pictures."""

    title: str
    text: str
    rows: tuple[GalleryRow, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of measuring a model on held-out samples.

    Args:
        metrics: values by name, shares in [0, 1].
        tables: how the metrics are laid out for people; without any, all metrics are listed.
        galleries: examples.
        unusable: why samples could not be used, by their row among those evaluated; a metric `skipped` counts them.
    """

    metrics: Mapping[str, float]
    tables: tuple[Table, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    unusable: Mapping[int, BadSample] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """What a part of a model starts from, by the names of its tensors.

    Args:
        key: the recipe key that names the source, for example model.text_weights.
        source: the key's value; None when the part starts at random.
        used: parameters that have the source's values.
        missing: parameters that the source does not have; they start at random.
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
            return f"{self.key}: null; all {len(self.missing)} parameters start at random"
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


class Transform(Protocol):
    """Turns a stored sample into features; runs on CPU workers, so it holds no model and pickles cheaply."""

    def __call__(self, sample: Sample, draw: KeyedRandom) -> Features:
        """Decode, augment and tokenise one sample.

        Raises:
            BadSample: when the sample cannot be used.
        """
        ...


@runtime_checkable
class StagedTransform(Transform, Protocol):
    """A transform whose decoding is a stage of its own, so that runs on one machine can share what it gives.

    `transform(sample, draw)` is `transform.finish(sample, transform.pixels(sample.image), draw)`, whatever these raise
    included. Offering the stages is optional.
    """

    @property
    def decoding(self) -> str:
        """The name of the decoding; another one whenever equal bytes may give other pixels (new code or libraries)."""
        ...

    def pixels(self, image: bytes) -> np.ndarray:
        """Decode an image file to contiguous uint8 [H, W, 3]; nothing but its bytes has a say.

        Raises:
            BadSample: when it cannot be decoded.
        """
        ...

    def finish(self, sample: Sample, pixels: np.ndarray, draw: KeyedRandom) -> Features:
        """Augment and tokenise one sample, given its pixels, which may be written into.

        Raises:
            BadSample: when the sample cannot be used.
        """
        ...


@runtime_checkable
class WorkloadEntry(Protocol):
    """What the entry-point group `fuseray.workloads` finds. Importing it must not import torch."""

    @property
    def config_type(self) -> type[Section]:
        """The recipe keys that belong to the workload; they stand next to the orchestrator's own."""
        ...

    @property
    def architecture_keys(self) -> Sequence[str]:
        """The dotted recipe keys that decide which tensors the model has and what they mean."""
        ...

    @property
    def related_keys(self) -> Sequence[tuple[str, str]]:
        """Pairs of dotted recipe keys that act together: a sweep's report maps a pair whenever both are searched."""
        ...

    def check(self, config: Any, batch: BatchShape) -> Iterable[Problem]:
        """Yield what makes a recipe impossible, before anything starts."""
        ...

    def metrics(self, config: Any) -> ReportedMetrics:
        """Return the metrics that a run of a recipe will report."""
        ...

    def transform(self, config: Any) -> Transform:
        """Return the training transform."""
        ...

    def create(self, config: Any) -> Workload:
        """Return a workload; imports torch."""
        ...


@runtime_checkable
class OfflineProfile(Protocol):
    """What a `WorkloadEntry` may offer besides, so that its model is timed without a network."""

    def profiled(self, config: Any) -> Any:
        """Return a config of equal cost whose transform needs nothing that would have to be fetched.

        It is used to time and measure a model with random weights, never to train.
        """
        ...


@runtime_checkable
class FilesEntry(Protocol):
    """An entry whose recipes name files that can be looked at before anything starts. Offering this is optional."""

    def check_files(self, config: Any, pretrained: bool) -> Iterable[Problem]:
        """Yield what is wrong with the files of a recipe that are on this machine; nothing is downloaded.

        Args:
            config: the workload's part of the recipe.
            pretrained: whether `Workload.build` will be asked for pretrained weights.
        """
        ...


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The recipe's batch: a step is `micro_batches` micro-batches of `micro_batch_size` samples."""

    micro_batches: int
    micro_batch_size: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a recipe: the key path and what to do about it."""

    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Example:
    """One example of a corpus under construction: a sample and the split it belongs to."""

    split: str
    sample: Sample


@runtime_checkable
class CorpusEntry(Protocol):
    """What the entry-point group `fuseray.corpora` finds."""

    @property
    def config_type(self) -> type[Section]:
        """The builder's options; field descriptions become the command line's help."""
        ...

    def describe(self, config: Any) -> Mapping[str, str]:
        """Return what determines the result (source names and versions), to know when a build is up to date."""
        ...

    def examples(self, config: Any) -> Iterator[Example]:
        """Yield the corpus's examples in a stable order.

        Raises:
            WorkloadError: when a source is missing or malformed.
        """
        ...


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the tensors of another project's checkpoint, by their names in the file.

    Every tensor of the file is in exactly one of `used`, `tied`, `aside` and `left_over`.

    Args:
        used: the model has them.
        resized: those among them that changed their shape.
        tied: equal to another tensor, or computed from one; they are computed again when written.
        aside: parts of the layout that the model does not have; kept with it.
        left_over: not known to the layout; kept with the model as well.
        copied: tensors of the model that the file lacks and that were copied from others of the model.
        missing: tensors of the model that the file lacks and that are as in a new model.
        notes: what else the user should know, one sentence each.
    """

    used: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignCheckpoint:
    """A checkpoint on its way between another project's layout and ours.

    Args:
        workload: name of the workload whose model it is.
        config: the workload's part of a recipe.
        state: the state_dict of the module that `Workload.build` makes, complete.
        optimizer_state: the optimiser's state by parameter name, as `entry/parameter`; empty when there is none.
        extra_tensors: tensors that the model does not have, by their foreign names.
        epochs: epochs that were trained; None when unknown.
        metadata: what else is needed to write the same file again, as plain JSON values; empty for a model that
            never was in the foreign layout.
        report: what became of the file's tensors.
        hyperparameters: the recipe's `optimizer` section; empty for an imported checkpoint.
    """

    workload: str
    config: Section
    state: Mapping[str, Tensor]
    optimizer_state: Mapping[str, Tensor] = field(default_factory=dict)
    extra_tensors: Mapping[str, Tensor] = field(default_factory=dict)
    epochs: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    report: ImportReport = ImportReport()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class CheckpointFormat(Protocol):
    """What the entry-point group `fuseray.checkpoint_formats` finds. Importing it must not import torch."""

    def read(self, file: Path, overrides: Mapping[str, Any]) -> ForeignCheckpoint:
        """Read a checkpoint of the format without running code that it may hold.

        Args:
            file: the file.
            overrides: values of the workload's part of a recipe, nested, that win over those found in the file.

        Raises:
            WorkloadError: when the file is of another kind, damaged, or does not fit the overrides.
        """
        ...

    def write(self, checkpoint: ForeignCheckpoint, file: Path, flat: bool = False) -> None:
        """Write a checkpoint of the format.

        Args:
            checkpoint: what to write.
            file: a new file.
            flat: write the model's tensors alone, even if the checkpoint has more.

        Raises:
            WorkloadError: when the checkpoint is of a workload that the format does not know.
        """
        ...
