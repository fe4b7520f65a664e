"""What packages register: workloads, corpora and checkpoint formats, with the sections of their configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from workloads.contract.evaluation import EvaluationOptions
from workloads.contract.reporting import ReportedMetrics
from workloads.contract.samples import Sample, Transform
from workloads.contract.section import Section
from workloads.contract.workload import Workload

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class WorkloadEntry(Protocol):
    """What the entry-point group `fuseray.workloads` finds. Importing it must not import torch."""

    @property
    def config_type(self) -> type[Section]:
        """The recipe keys that belong to the workload; they stand next to the orchestrator's own."""
        ...

    @property
    def evaluation_type(self) -> type[EvaluationOptions]:
        """The options of its evaluation; they stand next to the orchestrator's in the recipe's section `evaluation`."""
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


@runtime_checkable
class DescribedEntry(Protocol):
    """An entry that says what a recipe's model is. Offering this is optional."""

    def describe(self, config: Any) -> Iterable[str]:
        """Yield facts about the model that follow from a recipe, each in one line; may import torch.

        Args:
            config: the workload's part of the recipe, in which `check` found no problem.

        Raises:
            WorkloadError: when the model cannot be made.
        """
        ...


@runtime_checkable
class WarningsEntry(Protocol):
    """An entry that knows recipes which can run and will train badly. Offering this is optional."""

    def warnings(self, config: Any, batch: BatchShape, steps: int) -> Iterable[Problem]:
        """Yield what a run would suffer from, before anything starts; the run can start all the same.

        Args:
            config: the workload's part of the recipe.
            batch: samples of a step.
            steps: of the whole run.
        """
        ...


@runtime_checkable
class FineTuningEntry(Protocol):
    """An entry whose runs may start from checkpoints of other workloads and sizes. Offering this is optional."""

    @property
    def starts_from(self) -> Sequence[str]:
        """The workloads whose checkpoints a run may start from, besides its own."""
        ...

    @property
    def fitted_keys(self) -> Sequence[str]:
        """Those of the `architecture_keys` in which such a checkpoint may differ, since `fit_start` adapts it."""
        ...

    def fit_start(self, config: Any, source: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the complete state_dict of the module that `Workload.build` makes; imports torch.

        Args:
            config: the workload's part of the recipe.
            source: that of the checkpoint's workload, as it was trained.
            state: the checkpoint's model.

        Raises:
            WorkloadError: when it cannot be fitted; the message names the key to change.
        """
        ...


@runtime_checkable
class SamplesEntry(Protocol):
    """An entry that can tell from some samples of a data set what training on it lacks. Offering this is optional."""

    def check_samples(self, config: Any, samples: Sequence[Sample]) -> Iterable[str]:
        """Yield what a run would suffer from, and what to do about it; the run can start all the same.

        Args:
            config: the workload's part of the recipe.
            samples: some of those to train on.
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
