"""What the orchestrator and a workload promise each other.

The orchestrator streams samples, runs workers, saves checkpoints and tracks runs; it knows no model.
A workload turns samples into tensors and losses; it knows no cluster. They meet in this package only.

One training step, as the orchestrator's worker drives it:

    begin_step(clock)                     once: teacher update
    micro_step(batch, clock, backward)    per micro-batch of this worker; gradients accumulate
    ... gradients are summed over workers, the optimiser steps ...
    end_step(clock, shared)               once: every worker sees the whole step's shared tensors

Evaluation is shared out in the same spirit; `evaluation.py` says how.

A workload's result may depend on the micro-batch and on `clock.draw`, never on the worker that ran it.
"""

from workloads.contract.entries import (
    BatchShape,
    CheckpointFormat,
    CorpusEntry,
    DescribedEntry,
    Example,
    FilesEntry,
    FineTuningEntry,
    ForeignCheckpoint,
    ImportReport,
    OfflineProfile,
    Problem,
    SamplesEntry,
    WarningsEntry,
    WorkloadEntry,
)
from workloads.contract.evaluation import (
    SKIPPED,
    Block,
    Chunk,
    EvaluationOptions,
    Evaluator,
    FeatureName,
    Part,
    Record,
    evaluate_blocks,
    evaluate_samples,
    refuse_unusable,
    with_unusable,
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
from workloads.contract.samples import (
    IMAGE_ID_NAMES,
    BadSample,
    Batch,
    Features,
    KeyedRandom,
    Sample,
    StagedTransform,
    Transform,
    declared_image_id,
    image_number,
    names_its_image,
)
from workloads.contract.section import Section
from workloads.contract.workload import (
    Backward,
    Clock,
    InitialWeights,
    MicroResult,
    ParameterGroup,
    PretrainedWorkload,
    Workload,
    WorkloadError,
)

__all__ = [
    "IMAGE_ID_NAMES",
    "SKIPPED",
    "Backward",
    "BadSample",
    "Batch",
    "BatchShape",
    "Block",
    "CheckpointFormat",
    "Chunk",
    "Clock",
    "CorpusEntry",
    "DescribedEntry",
    "Evaluation",
    "EvaluationOptions",
    "Evaluator",
    "Example",
    "FeatureName",
    "Features",
    "FilesEntry",
    "FineTuningEntry",
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
    "Part",
    "Picture",
    "PretrainedWorkload",
    "Problem",
    "Record",
    "ReportedMetrics",
    "Sample",
    "SamplesEntry",
    "Section",
    "StagedTransform",
    "Table",
    "TableRow",
    "Transform",
    "WarningsEntry",
    "Workload",
    "WorkloadEntry",
    "WorkloadError",
    "declared_image_id",
    "evaluate_blocks",
    "evaluate_samples",
    "image_number",
    "names_its_image",
    "refuse_unusable",
    "with_unusable",
]
