"""The recipe's sections that belong to the orchestrator; a workload adds its own."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from workloads.contract import BatchShape, Section

Precision = Literal["float32", "bfloat16", "float64"]


class MixedDataSection(Section):
    """One data set of a mixture."""

    uri: str = Field(description="URI of its shards and their index.")
    weight: float | None = Field(
        None, gt=0, description="Its share of the samples, relative to the other weights; none: its number of samples."
    )


class DataSection(Section):
    """Where the image-text shards are: one data set, or a mixture of several."""

    train: str | None = Field(
        None, description="URI of the training shards: a folder, or FOLDER/train-*.tar for those with such names."
    )
    mix: tuple[MixedDataSection, ...] | None = Field(
        None, min_length=1, strict=False, description="Data sets to draw from in turn, each running its own epochs."
    )
    held_out: str | None = Field(None, description="URI of the held-out shards; without it nothing is evaluated.")

    @model_validator(mode="after")
    def _one_of_two(self) -> DataSection:
        if (self.train is None) == (self.mix is None):
            raise ValueError("give exactly one of data.train and data.mix")
        if self.mix and len({data_set.weight is None for data_set in self.mix}) > 1:
            raise ValueError("data.mix: give a weight to every data set, or to none")
        if self.mix and len({data_set.uri for data_set in self.mix}) < len(self.mix):
            raise ValueError("data.mix: names a data set twice; give it one entry with a larger weight")
        return self

    @property
    def sets(self) -> tuple[MixedDataSection, ...]:
        """The data sets: one, or those of the mixture."""
        return self.mix or (MixedDataSection(uri=self.train or "", weight=None),)


class StreamSection(Section):
    """How samples are ordered, read and decoded. Only `chunk` and `window` affect which samples a step trains on."""

    chunk: int = Field(16, ge=1, description="Neighbouring samples that are read together; their order is shuffled.")
    window: int = Field(
        512,
        ge=1,
        description="Samples of several chunks that are shuffled one by one and feed one micro-batch of every step for "
        "as many steps as they last; a worker holds two or three windows for each of its micro-batches.",
    )
    decode_on: Literal["auto", "workers", "readers"] = Field(
        "auto",
        description="workers: in the training workers' threads; readers: in Ray Data's tasks, on any machine; "
        "auto: in both, shared out by CPUs.",
    )
    decode_threads: int | None = Field(
        None, ge=1, description="Decoding threads per worker; none: as many as it has CPUs."
    )
    prefetch: int = Field(8, ge=1, description="Micro-batches that a worker prefetches.")
    reader_cpus: float = Field(1.0, ge=1, description="CPUs kept free for reading and decoding.")
    decoded_cache_mb: int = Field(
        0,
        ge=0,
        description="Decoded images kept on every machine's disk for all runs there, at most so many MB; 0: none.",
    )
    max_bad_share: float = Field(0.01, ge=0, le=1, description="The run stops when more samples than this are bad.")
    audit: bool = Field(False, description="Log the keys of every micro-batch; `fuseray audit RUN` checks them.")


class BatchSection(Section):
    """A step is a fixed set of micro-batches; in-batch negatives and statistics stay inside one micro-batch."""

    micro_batches: int = Field(ge=1, description="Micro-batches per step, shared out over the workers.")
    micro_batch_size: int = Field(ge=1, description="Samples per micro-batch.")

    @property
    def samples(self) -> int:
        """Samples per step."""
        return self.micro_batches * self.micro_batch_size

    @property
    def shape(self) -> BatchShape:
        """The batch as passed to the workload's checks."""
        return BatchShape(self.micro_batches, self.micro_batch_size)


class LengthSection(Section):
    """How long to train: either epochs or steps."""

    epochs: float | None = Field(None, gt=0, description="Passes over the training samples.")
    steps: int | None = Field(None, ge=1, description="Optimiser steps.")

    @model_validator(mode="after")
    def _one_of_two(self) -> LengthSection:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of length.epochs and length.steps")
        return self


def _worker_counts(value: object) -> object:
    """Check `scale.workers`; a list of two becomes a tuple."""
    counts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 1 for count in counts):
        raise ValueError("must be a whole number of at least 1, or two of them as [fewest, most]")
    if isinstance(value, int):
        return value
    if len(counts) != 2 or tuple(sorted(counts)) != tuple(counts):
        raise ValueError("must be a whole number, or two of them as [fewest, most] with the smaller one first")
    return tuple(counts)


class ScaleSection(Section):
    """Workers and resources. They never change the mathematics of a step."""

    workers: Annotated[int | tuple[int, int], BeforeValidator(_worker_counts)] = Field(
        1,
        description="Training workers. [2, 8]: from two to eight, as many as the cluster has room for; their number "
        "changes with the cluster, the steps stay the same.",
    )
    resize_every_s: float = Field(60.0, gt=0, description="Seconds between two checks for resources to grow.")
    use_gpu: bool = Field(False, description="One GPU per worker, with NCCL; otherwise CPU, with gloo.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs reserved per worker.")
    parallel: Literal["replicated", "sharded"] = Field(
        "replicated",
        description="replicated: every worker holds the whole model; sharded: parameters, gradients and the "
        "optimizer state are divided among the workers between the passes of a step (FSDP2).",
    )
    address: str = Field("local", description="'local' starts Ray on this machine; otherwise the cluster's address.")
    machines_wait_s: float = Field(
        1800.0,
        gt=0,
        description="Seconds that a start waits for machines that an autoscaling cluster is to bring.",
    )
    object_store_mb: int = Field(1024, ge=80, description="Ray's object store, in MB, when Ray is started locally.")

    @property
    def min_workers(self) -> int:
        """The run waits while fewer can be placed."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The run never requests more."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class OptimizerSection(Section):
    """AdamW."""

    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay rates of the two moment estimates.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the denominator.")
    weight_decay: float = Field(0.02, ge=0, description="Decoupled weight decay.")
    clip_norm: float | None = Field(None, gt=0, description="Largest gradient norm; none: no clipping.")


class ScheduleSection(Section):
    """Learning rate over the run."""

    kind: Literal["cosine", "linear", "constant"] = Field("cosine", description="Shape of the decay after the warm-up.")
    by: Literal["step", "epoch"] = Field(
        "step",
        description="Decay at every step, or, as the official ALBEF pre-training, once per epoch: the warm-up and the "
        "peak in the first epoch, then the decay over the epochs of the run.",
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up; by epoch it ends with the first epoch.")
    warmup_from: float = Field(1e-5, ge=0, description="Learning rate at step 0 when there is a warm-up.")
    warmup_plateau: int = Field(1, ge=1, description="Steps for which the warm-up holds a rate; official ALBEF: 100.")
    final: float = Field(1e-5, ge=0, description="Learning rate that the decay ends at.")


class StartSection(Section):
    """A checkpoint that a new run starts from."""

    checkpoint: str = Field(
        description="Folder or URI of the checkpoint: made by `fuseray import-checkpoint FORMAT FILE OUT`, or another "
        "run's."
    )
    take: Literal["weights", "everything"] = Field(
        "weights", description="The model alone, or also the optimizer state and the step."
    )


class CheckpointSection(Section):
    """When checkpoints are saved, and which are kept."""

    every_steps: int = Field(500, ge=1, description="Steps between checkpoints; the last step is always saved.")
    keep: int = Field(3, ge=1, description="Newest checkpoints kept.")
    keep_best: int = Field(0, ge=0, description="Best checkpoints kept in addition to the newest, by metric and mode.")
    metric: str | None = Field(
        None,
        description="What ranks checkpoints: a metric of the saved step by its name in MLflow, such as loss, or "
        "one that begins with held_out/, which only steps that are evaluated too have.",
    )
    mode: Literal["min", "max"] | None = Field(None, description="Whether small or large values of metric are good.")

    @model_validator(mode="after")
    def _metric_and_mode(self) -> CheckpointSection:
        if self.keep_best and (self.metric is None or self.mode is None):
            raise ValueError(
                "checkpoint.keep_best needs checkpoint.metric, for example loss, and checkpoint.mode, min or max"
            )
        return self


class RecoverySection(Section):
    """How a run recovers from failed machines and from non-finite steps."""

    machine_faults: int = Field(
        16, ge=0, description="Lost workers, lost machines, hangs and kills for want of memory that a start survives."
    )
    preemptions: int | None = Field(None, ge=0, description="Preemptions that a start survives; none: any number.")
    without_progress: int = Field(
        3, ge=1, description="The run ends after so many faults in a row without a finished step."
    )
    hang_s: float = Field(900.0, gt=0, description="Seconds without a finished step after which workers are replaced.")
    notices: str = Field(
        "none",
        description="Where every machine polls for its preemption notice: auto, aws, gcp, file:PATH; none: "
        "nowhere, or `fuseray watch-preemption` does it.",
    )
    not_a_number: Literal["stop", "skip", "roll_back"] = Field(
        "stop",
        description="When the loss or a gradient is not finite. stop: end the run; skip: skip the step; roll_back: "
        "load the newest checkpoint's weights and continue behind the step.",
    )
    bad_steps: int = Field(
        10, ge=1, description="Steps in a row that may be skipped or rolled back before the run ends."
    )

    @field_validator("notices")
    @classmethod
    def _known_source(cls, notices: str) -> str:
        if notices in ("none", "auto", "aws", "gcp") or (notices.startswith("file:") and notices != "file:"):
            return notices
        raise ValueError("must be none, auto, aws, gcp or file:PATH")


class BudgetSection(Section):
    """Limits over all starts of a run; when one is reached it stops with a checkpoint."""

    usd: float | None = Field(None, gt=0, description="What its machines may cost, by the price table; none: anything.")
    hours: float | None = Field(None, gt=0, description="Wall time of all its starts together; none: any.")


class EvaluationSection(Section):
    """Measuring the model on held-out samples, during and after training; the workload adds how."""

    every_steps: int | None = Field(None, ge=1, description="Steps between evaluations while training; none: never.")
    samples: int = Field(1000, ge=2, description="Held-out samples used while training.")
    where: Literal["workers", "beside"] = Field(
        "workers",
        description="Who measures while training. workers: all of them together, between two steps; beside: an actor "
        "with CPUs or GPUs of its own, while they train on; each measured step is saved for it.",
    )
    cpus: float = Field(
        1.0, gt=0, description="CPUs of an actor that measures, beside training or in an evaluation on a cluster."
    )
    gpus: float = Field(0.0, ge=0, description="GPUs, or the share of one, of the actor beside training.")
    memory_mb: int = Field(
        2000, ge=1, description="Features that a process keeps in memory for the second stage; the rest is on disk."
    )


class StorageSection(Section):
    """Where runs are stored."""

    uri: str = Field("runs", description="Folder or object-store prefix; a run lives in URI/NAME.")
    endpoint: str | None = Field(None, description="Address of an S3-compatible server, for s3:// URIs.")


class TrackingSection(Section):
    """MLflow."""

    uri: str = Field(
        "sqlite:///runs/mlflow.db",
        description="MLflow tracking URI; 'environment' reads it from the variable MLFLOW_TRACKING_URI.",
    )
    experiment: str = Field("fuseray", description="MLflow experiment.")
    artifacts: str | None = Field(
        None, description="URI for the files of a new experiment; none: where MLflow's server or store puts them."
    )

    @field_validator("uri", "artifacts")
    @classmethod
    def _without_password(cls, uri: str | None) -> str | None:
        if uri is not None and urlsplit(uri).password:
            raise PydanticCustomError(
                "password",
                "holds a password, which every log would show; put it into MLFLOW_TRACKING_URI and write "
                "'environment' here",
            )
        return uri


class Recipe(Section):
    """The orchestrator's part of a recipe."""

    name: str = Field(description="The run's name; it names the run's folder.")
    workload: str = Field(description="What to train, found in the entry points 'fuseray.workloads'.")
    seed: int = Field(42, ge=0, description="Key of every random draw.")
    precision: Precision = Field("float32", description="bfloat16 is autocast over float32 weights.")
    data: DataSection
    batch: BatchSection
    length: LengthSection
    stream: StreamSection = StreamSection()
    scale: ScaleSection = ScaleSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    start: StartSection | None = Field(None, description="The checkpoint to start from; none: the workload's weights.")
    checkpoint: CheckpointSection = CheckpointSection()
    recovery: RecoverySection = RecoverySection()
    evaluation: EvaluationSection = EvaluationSection()
    budget: BudgetSection = BudgetSection()
    storage: StorageSection = StorageSection()
    tracking: TrackingSection = TrackingSection()

    @property
    def measures_beside(self) -> bool:
        """Whether an actor beside the training measures its checkpoints."""
        section = self.evaluation
        return section.where == "beside" and section.every_steps is not None and self.data.held_out is not None

    @property
    def beside_cpus(self) -> float:
        """CPUs that measuring beside the training takes."""
        return self.evaluation.cpus if self.measures_beside else 0.0

    @property
    def beside_gpus(self) -> float:
        """GPUs that measuring beside the training takes."""
        return self.evaluation.gpus if self.measures_beside else 0.0

    def samples(self, epoch_samples: int) -> int:
        """Return how many samples the whole run trains on, given the samples of an epoch."""
        if self.length.steps is not None:
            return self.length.steps * self.batch.samples
        return math.ceil((self.length.epochs or 0) * epoch_samples)

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        return folder_name(name)

    @model_validator(mode="after")
    def _enough_micro_batches(self) -> Recipe:
        if self.scale.max_workers > self.batch.micro_batches:
            raise ValueError(
                f"scale.workers ({self.scale.max_workers}) must be at most batch.micro_batches "
                f"({self.batch.micro_batches}): a worker without a micro-batch would have nothing to do"
            )
        return self


def folder_name(name: str) -> str:
    """Return a name if it is a valid folder name.

    Raises:
        ValueError: it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError("must be 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit")
    return name
