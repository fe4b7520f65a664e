"""The plan of a run: a recipe with its data, steps and workers, made before anything is started."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.config.document import flatten
from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.recipe import Recipe
from orchestrator.config.recipe_paths import is_same_place, with_absolute_paths
from orchestrator.config.yaml_text import to_yaml
from orchestrator.storage.location import Location, locate
from orchestrator.storage.ray_folder import ray_folder, refuse_long_folder
from orchestrator.storage.run_folder import RunError, RunFolder
from orchestrator.stream.dataset.index import Index, check_shards, read_index
from orchestrator.stream.dataset.samples import evenly_spaced, read_numbered
from orchestrator.stream.dataset.shard_folder import locate_shards
from orchestrator.stream.decoder import Decoder, Node, can_read
from orchestrator.stream.image_cache.cache import DecodedCache
from orchestrator.stream.ledger import LedgerAudit, check_ledger, read_ledger
from orchestrator.stream.order.partition import WorkerPartition
from orchestrator.stream.ray_dataset import ReadPlan
from orchestrator.stream.reader import DataSet, Reader, TrainingData
from orchestrator.stream.state import stream_settings
from orchestrator.train.checkpoints.warm_start import WarmStart, find_warm_start, load_start
from workloads.contract import DescribedEntry, FilesEntry, Problem, Sample, SamplesEntry, StagedTransform, Transform

LOG = logging.getLogger(__name__)
MAX_BLOCK_SAMPLES = 512
"""Samples that are sent to a worker as one block unless a step's share has more: decoded, some 100 MB."""


@dataclass(frozen=True)
class Plan:
    """A recipe and its data.

    Args:
        resolved: the recipe.
        data: the training data.
        held_out: folder of the held-out shards.
        held_out_index: their index.
        run: folder of the run.
        warnings: for the user.
        warm_start: the checkpoint that a new run starts from.
    """

    resolved: ResolvedRecipe
    data: TrainingData
    held_out: Location | None
    held_out_index: Index | None
    run: RunFolder
    warnings: tuple[str, ...]
    warm_start: WarmStart | None = None

    @property
    def recipe(self) -> Recipe:
        """The orchestrator's part of the recipe."""
        return self.resolved.recipe

    @property
    def total_samples(self) -> int:
        """Samples of the whole run."""
        return self.recipe.samples(self.data.total)

    @property
    def steps(self) -> int:
        """Steps of the whole run; the last one may have fewer samples."""
        return math.ceil(self.total_samples / self.recipe.batch.samples)

    @property
    def first_step(self) -> int:
        """The first step of a new run; not 0 when its warm start continues at the checkpoint's step."""
        return self.warm_start.first_step if self.warm_start else 0

    @property
    def measures_beside(self) -> bool:
        """Whether an actor beside the training measures its checkpoints."""
        return self.held_out is not None and self.recipe.measures_beside

    def partition(self, first_step: int, workers: int) -> WorkerPartition:
        """Return how micro-batches are split among workers from a step on."""
        batch = self.recipe.batch
        fitting = MAX_BLOCK_SAMPLES * workers // batch.samples
        block_steps = max(1, min(self.reader.layout.lane_window_steps, fitting))
        return WorkerPartition(batch.micro_batches, workers, first_step, self.steps, block_steps)

    @property
    def reader(self) -> Reader:
        """The reader of the run's micro-batches."""
        stream, batch = self.recipe.stream, self.recipe.batch
        return self.data.reader(
            self.recipe.seed,
            stream.chunk,
            stream.window,
            batch.micro_batches,
            batch.micro_batch_size,
            self.total_samples,
        )

    def read_plan(self, decoded_share: float) -> ReadPlan:
        """Return what delivers the run's micro-batches, of which the readers decode the given share."""
        transform = self.resolved.entry.transform(self.resolved.workload)
        decoder = Decoder(transform, self.recipe.seed, self._decoded_cache(transform))
        return ReadPlan(self.reader, decoder, decoded_share)

    def stream_settings(self) -> dict[str, Any]:
        """Return the settings that determine the samples of every step, for checkpoints."""
        return stream_settings(self.reader, self.recipe.seed)

    @property
    def decode_threads(self) -> int:
        """Decoding threads of a worker."""
        return self.recipe.stream.decode_threads or max(1, int(self.recipe.scale.cpus_per_worker))

    def epochs_after(self, step: int) -> dict[str, float]:
        """Return the epochs of each data set of a mixture after a step, numbered as in the recipe."""
        if len(self.data.sets) == 1:
            return {}
        epochs = self.data.epochs_of_sets((step + 1) * self.recipe.batch.samples, self.recipe.seed)
        return {f"epochs/data_set_{number}": value for number, value in enumerate(epochs)}

    def _decoded_cache(self, transform: Transform) -> DecodedCache | None:
        limit_mb = self.recipe.stream.decoded_cache_mb
        if limit_mb and not isinstance(transform, StagedTransform):
            LOG.warning(
                "stream.decoded_cache_mb: the workload %s does not decode in a separate stage, so its images cannot be "
                "cached.",
                self.recipe.workload,
            )
        return DecodedCache(limit_mb) if limit_mb else None

    def describe(self) -> dict[str, str | int | float]:
        """Return a summary of the plan for the terminal and for JSON."""
        recipe = self.recipe
        fewest, most = recipe.scale.min_workers, recipe.scale.max_workers
        shares = [
            len(self.partition(0, workers).micro_batches_of(0, rank))
            for workers in (fewest, most)
            for rank in range(workers)
        ]
        return {
            "run": recipe.name,
            "workload": recipe.workload,
            "steps": self.steps,
            "samples": self.total_samples,
            "samples_per_step": recipe.batch.samples,
            "training_samples": self.data.total,
            "epochs": round(self.total_samples / self.data.total, 3),
            "held_out_samples": self.held_out_index.total if self.held_out_index else 0,
            "workers": _range([fewest, most]),
            "device": "gpu" if recipe.scale.use_gpu else "cpu",
            "micro_batches_per_worker": _range(shares),
            "shards": self.data.shards,
            "starts_from": self.warm_start.describe() if self.warm_start else "the recipe's weights",
            "run_folder": self.run.root.uri,
            "checkpoints": self.run.checkpoints.uri,
            "mlflow": recipe.tracking.uri,
        }


def make_plan(resolved: ResolvedRecipe) -> Plan:
    """Open the data that a recipe names and check its machine; the plan's recipe has absolute paths.

    Relative paths are relative to the current folder; of a run that exists they mean those of its earlier starts.

    Raises:
        StorageError: storage cannot be reached.
        DataSetError: the data is missing, not indexed, or does not match its index.
        ConfigError: the recipe needs more than the machine has, Ray's temporary folder there is too long, or the run
            starts from an unsuitable checkpoint.
    """
    run = RunFolder(locate(f"{resolved.recipe.storage.uri}/{resolved.recipe.name}", resolved.recipe.storage.endpoint))
    resolved = with_absolute_paths(resolved, Path.cwd(), run.recipe_values())
    recipe = resolved.recipe
    if recipe.scale.address == "local":
        refuse_long_folder(ray_folder())
        check_machines(recipe, [Node(os.cpu_count() or 1, _gpus() if recipe.scale.use_gpu else 0)])
    data, warnings = training_data(recipe)
    warnings += _sample_warnings(resolved, data)
    held_out, held_out_index = None, None
    if recipe.data.held_out is not None:
        held_out, held_out_index, more = _open(recipe.data.held_out, recipe.storage.endpoint)
        warnings += more
    plan = Plan(resolved, data, held_out, held_out_index, run, tuple(warnings))
    advice = (f"{problem.key}: {problem.message}" for problem in resolved.warnings(plan.steps))
    plan = replace(plan, warnings=(*plan.warnings, *advice))
    if recipe.start is None:
        return plan

    return replace(plan, warm_start=find_warm_start(resolved, data.total, plan.steps))


def check_files(plan: Plan, new: bool) -> None:
    """Look at the files of this machine that a run starts from: a checkpoint, or what the workload's keys name.

    Args:
        plan: the plan.
        new: whether the run has no checkpoint of its own yet.

    Raises:
        ConfigError: they are missing or do not fit the recipe; the message names the keys.
    """
    start = plan.warm_start
    if new and start is not None and start.folder.is_local:
        try:
            load_start(start, plan.resolved)
        except FuserayError as error:
            raise ConfigError(str(error)) from error
    problems = file_problems(plan.resolved, pretrained=new and start is None)
    if problems:
        raise ConfigError("\n".join(f"{problem.key}: {problem.message}" for problem in problems))


def file_problems(resolved: ResolvedRecipe, pretrained: bool) -> list[Problem]:
    """Return what is wrong with the files of this machine that the workload's keys name.

    Args:
        resolved: the recipe.
        pretrained: whether the run starts from the pretrained weights that the recipe names.
    """
    entry = resolved.entry
    return list(entry.check_files(resolved.workload, pretrained)) if isinstance(entry, FilesEntry) else []


def model_description(resolved: ResolvedRecipe) -> list[str]:
    """Return what the workload says of a recipe's model, line by line; nothing while it finds problems.

    Raises:
        WorkloadError: the model cannot be made.
    """
    entry = resolved.entry
    if not isinstance(entry, DescribedEntry) or any(entry.check(resolved.workload, resolved.recipe.batch.shape)):
        return []
    return list(entry.describe(resolved.workload))


def check_machines(recipe: Recipe, nodes: Sequence[Node]) -> None:
    """Refuse a recipe that would wait for ever for CPUs or GPUs.

    Raises:
        ConfigError: needed and available resources, and the key to change.
    """
    scale, cpus, gpus = recipe.scale, sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    workers = scale.min_workers
    beside_cpus, beside_gpus = recipe.beside_cpus, recipe.beside_gpus
    needed = workers * scale.cpus_per_worker + recipe.stream.reader_cpus + beside_cpus
    if needed > cpus:
        evaluation = f" and {beside_cpus:g} for evaluation" if beside_cpus else ""
        raise ConfigError(
            f"scale.workers: {workers} workers x {scale.cpus_per_worker:g} CPUs and "
            f"{recipe.stream.reader_cpus:g} for reading{evaluation} need {needed:g} CPUs; there are {cpus:g}. "
            f"Lower scale.workers or scale.cpus_per_worker{', set evaluation.where=workers' if evaluation else ''}, "
            "or name a larger cluster in scale.address."
        )
    if scale.use_gpu and workers > gpus:
        raise ConfigError(
            f"scale.use_gpu: {workers} workers need {workers} GPUs; there are {gpus:g}. "
            "Lower scale.workers, or set scale.use_gpu to false."
        )
    if beside_gpus > gpus - workers * scale.use_gpu:
        raise ConfigError(
            f"evaluation.gpus: {beside_gpus:g} GPUs beside those of the workers are not there ({gpus:g} in all). "
            "Set evaluation.gpus=0, or evaluation.where=workers."
        )
    if not can_read(nodes, workers, scale.cpus_per_worker):
        raise ConfigError(
            f"scale.cpus_per_worker: with {scale.cpus_per_worker:g} CPUs for each of {workers} workers no "
            "machine has a whole CPU left to read samples with, and the run would wait for ever. Lower it."
        )


def training_data(recipe: Recipe) -> tuple[TrainingData, list[str]]:
    """Open the data sets that a recipe trains on; return them with warnings for the user.

    Raises:
        StorageError: storage cannot be reached.
        DataSetError: data is missing, not indexed, or does not match its index.
    """
    sets, warnings = [], []
    for section in recipe.data.sets:
        folder, index, more = _open(section.uri, recipe.storage.endpoint)
        sets.append(DataSet(folder, index, section.weight or float(index.total)))
        warnings += more
    return TrainingData(tuple(sets)), warnings


LOOKED_AT = 4
"""Samples of each data set that the workload looks at."""


def _sample_warnings(resolved: ResolvedRecipe, data: TrainingData) -> Iterator[str]:
    """Yield what the workload says of some samples of each data set."""
    entry = resolved.entry
    if not isinstance(entry, SamplesEntry):
        return
    for source in data.sets:
        found = read_numbered(source.folder, source.index, evenly_spaced(source.index.total, LOOKED_AT))
        samples = [each.content for each in found if isinstance(each.content, Sample)]
        yield from (f"{source.folder.uri}: {text}" for text in entry.check_samples(resolved.workload, samples))


def _open(uri: str, endpoint: str | None) -> tuple[Location, Index, list[str]]:
    folder = locate_shards(uri, endpoint)
    index = read_index(folder)
    warnings = [
        f"{(folder / name).uri}: is shorter than when it was indexed; its lost samples will be skipped."
        for name in check_shards(folder, index)
    ]
    return folder, index, warnings


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def plan_of_run(run: RunFolder, resolved: ResolvedRecipe) -> Plan:
    """Return the plan of an existing run, without its held-out samples.

    Args:
        run: the run.
        resolved: its recipe.

    Raises:
        RunError: there is no such run, or its data changed.
        StorageError: the store is failing.
        DataSetError: the data is missing or not indexed.
    """
    data, _ = training_data(resolved.recipe)
    if data.digest != run.read().index_digest:
        raise RunError(
            f"{run.root.uri}: the training data in {data.uris} changed since the run, so the samples it used are "
            "no longer known. Put the data back."
        )
    return Plan(resolved, data, None, None, run, ())


def recipe_yaml(resolved: ResolvedRecipe) -> str:
    """Return the resolved recipe as YAML, which is a recipe itself."""
    return to_yaml(resolved.values())


def differences(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the keys whose values differ, with `before -> now`.

    Args:
        before: values of the recipe of a run.
        now: values with absolute paths.
        folder: what relative paths of `before` are relative to.
    """
    old, new = flatten(before), flatten(now)
    return {
        key: f"{old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if not is_same_place(old.get(key), new.get(key), folder)
    }


def audit_run(run: RunFolder, resolved: ResolvedRecipe) -> LedgerAudit:
    """Compare a run's ledger, up to its newest checkpoint, with the order of its samples.

    Raises:
        RunError: the run keeps no ledger, has no checkpoint yet, or its data changed.
        StorageError: the store is failing.
        DataSetError: the data is missing or not indexed.
    """
    if not resolved.recipe.stream.audit:
        raise RunError(f"{run.root.uri}: the run keeps no ledger; train with stream.audit=true.")
    steps = run.newest_step()
    if steps == 0:
        raise RunError(f"{run.root.uri}: there is no checkpoint yet, so no step counts.")
    plan = plan_of_run(run, resolved)
    return check_ledger(read_ledger(run.ledger), plan.reader, range(steps * resolved.recipe.batch.micro_batches))
