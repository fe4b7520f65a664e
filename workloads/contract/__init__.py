"""What the orchestrator and a workload promise each other.

The orchestrator streams samples, runs workers, saves checkpoints and tracks runs; it knows no model.
A workload turns samples into tensors and losses; it knows no cluster. They meet in this package only.

One training step, as the orchestrator's worker drives it:

    begin_step(clock)                     once: teacher update
    micro_step(batch, clock, backward)    per micro-batch of this worker; gradients accumulate
    ... gradients are summed over workers, the optimiser steps ...
    end_step(clock, shared)               once: every worker sees the whole step's shared tensors

A workload's result may depend on the micro-batch and on `clock.draw`, never on the worker that ran it.
"""

from workloads.contract.entries import (
    BatchShape,
    CheckpointFormat,
    CorpusEntry,
    DescribedEntry,
    Example,
    FilesEntry,
    ForeignCheckpoint,
    ImportReport,
    OfflineProfile,
    Problem,
    Section,
    WorkloadEntry,
)
from workloads.contract.reporting import (
    Evaluation,
    Gallery,
    GalleryRow,
    Metric,
    Panel,
    Picture,
    ReportedMetrics,
    Table,
    TableRow,
)
from workloads.contract.samples import BadSample, Batch, Features, KeyedRandom, Sample, StagedTransform, Transform
from workloads.contract.workload import (
    Backward,
    Clock,
    EvaluationOptions,
    InitialWeights,
    MicroResult,
    ParameterGroup,
    PretrainedWorkload,
    Workload,
    WorkloadError,
)

__all__ = [
    "Backward",
    "BadSample",
    "Batch",
    "BatchShape",
    "CheckpointFormat",
    "Clock",
    "CorpusEntry",
    "DescribedEntry",
    "Evaluation",
    "EvaluationOptions",
    "Example",
    "Features",
    "FilesEntry",
    "ForeignCheckpoint",
    "Gallery",
    "GalleryRow",
    "ImportReport",
    "InitialWeights",
    "KeyedRandom",
    "Metric",
    "MicroResult",
    "OfflineProfile",
    "Panel",
    "ParameterGroup",
    "Picture",
    "PretrainedWorkload",
    "Problem",
    "ReportedMetrics",
    "Sample",
    "Section",
    "StagedTransform",
    "Table",
    "TableRow",
    "Transform",
    "Workload",
    "WorkloadEntry",
    "WorkloadError",
]
