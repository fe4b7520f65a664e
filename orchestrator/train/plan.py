"""What a recipe will do, worked out before anything is started."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.spec.errors import SpecError
from orchestrator.spec.loading import ResolvedRecipe
from orchestrator.spec.recipe import Recipe
from orchestrator.storage.location import Location, locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.index import Index, check_shards, read_index
from orchestrator.stream.order import Order
from orchestrator.stream.reader import Reader
from orchestrator.stream.sharing import Sharing

if TYPE_CHECKING:
    from orchestrator.train.origin import Origin


@dataclass(frozen=True)
class Plan:
    """A recipe together with the data it found.

    Args:
        resolved: the recipe.
        train: folder of the training shards.
        index: their index.
        held_out: folder of the held-out shards.
        held_out_index: their index.
        run: where the run will be written.
        warnings: what the user should know.
        origin: the checkpoint that a new run starts from.
    """

    resolved: ResolvedRecipe
    train: Location
    index: Index
    held_out: Location | None
    held_out_index: Index | None
    run: RunFolder
    warnings: tuple[str, ...]
    origin: Origin | None = None

    @property
    def recipe(self) -> Recipe:
        """The orchestrator's part of the recipe."""
        return self.resolved.recipe

    @property
    def total_samples(self) -> int:
        """Samples of the whole run."""
        length, batch = self.recipe.length, self.recipe.batch.samples
        if length.steps is not None:
            return length.steps * batch
        return math.ceil((length.epochs or 0) * self.index.total)

    @property
    def steps(self) -> int:
        """Steps of the whole run; the last one may have fewer samples."""
        return math.ceil(self.total_samples / self.recipe.batch.samples)

    @property
    def first_step(self) -> int:
        """The first step of a new run; not 0 when it goes on where another one ended."""
        return self.origin.first_step if self.origin else 0

    def sharing(self, first_step: int, workers: int) -> Sharing:
        """Return how micro-batches are shared out from a step on."""
        return Sharing(
            self.recipe.batch.micro_batches, workers, self.recipe.stream.segment_steps, first_step, self.steps
        )

    def reader(self) -> Reader:
        """Return what makes the run's micro-batches."""
        recipe = self.recipe
        return Reader(
            folder=self.train,
            index_digest=self.index.digest,
            order=Order(self.index.total, recipe.seed, recipe.stream.chunk, recipe.stream.window),
            micro_batch_size=recipe.batch.micro_batch_size,
            total_samples=self.total_samples,
            transform=self.resolved.entry.transform(self.resolved.workload),
        )

    def describe(self) -> dict[str, str | int | float]:
        """Return the plan in words and figures, for people and scripts."""
        recipe, sharing = self.recipe, self.sharing(0, self.recipe.scale.workers)
        return {
            "run": recipe.name,
            "workload": recipe.workload,
            "steps": self.steps,
            "samples": self.total_samples,
            "samples_per_step": recipe.batch.samples,
            "training_samples": self.index.total,
            "epochs": round(self.total_samples / self.index.total, 3),
            "held_out_samples": self.held_out_index.total if self.held_out_index else 0,
            "workers": recipe.scale.workers,
            "device": "gpu" if recipe.scale.use_gpu else "cpu",
            "micro_batches_per_worker": _range([len(sharing.share(0, rank)) for rank in range(sharing.workers)]),
            "shards": len(self.index.shards),
            "starts_from": self.origin.describe() if self.origin else "the recipe's weights",
            "run_folder": self.run.root.uri,
            "checkpoints": self.run.checkpoints.uri,
            "mlflow": recipe.tracking.uri,
        }


def make_plan(resolved: ResolvedRecipe) -> Plan:
    """Look at the data and the machine that a recipe names.

    Raises:
        StorageError: storage cannot be reached.
        DataSetError: the data is missing, not indexed, or does not match its index.
        SpecError: the recipe asks for more than the machine has, or starts from an unfit checkpoint.
    """
    recipe = resolved.recipe
    if recipe.scale.address == "local":
        check_machine(recipe, os.cpu_count() or 1, _gpus() if recipe.scale.use_gpu else 0)
    train, index, warnings = _open(recipe.data.train, recipe.storage.endpoint)
    held_out, held_out_index = None, None
    if recipe.data.held_out is not None:
        held_out, held_out_index, more = _open(recipe.data.held_out, recipe.storage.endpoint)
        warnings += more
    run = RunFolder(locate(f"{recipe.storage.uri}/{recipe.name}", recipe.storage.endpoint))
    plan = Plan(resolved, train, index, held_out, held_out_index, run, tuple(warnings))
    if recipe.start is None:
        return plan

    from orchestrator.train.origin import find_origin

    return replace(plan, origin=find_origin(resolved, index.total, plan.steps))


def check_machine(recipe: Recipe, cpus: float, gpus: float) -> None:
    """Refuse a recipe that would wait for ever for CPUs or GPUs.

    Raises:
        SpecError: what is asked for, what there is, and which key to change.
    """
    scale = recipe.scale
    needed = scale.workers * scale.cpus_per_worker + recipe.stream.reader_cpus
    if needed > cpus:
        raise SpecError(
            f"scale.workers: {scale.workers} workers x {scale.cpus_per_worker:g} CPUs and "
            f"{recipe.stream.reader_cpus:g} for reading need {needed:g} CPUs; there are {cpus:g}. "
            "Lower scale.workers or scale.cpus_per_worker, or name a larger cluster in scale.address."
        )
    if scale.use_gpu and scale.workers > gpus:
        raise SpecError(
            f"scale.use_gpu: {scale.workers} workers need {scale.workers} GPUs; there are {gpus:g}. "
            "Lower scale.workers, or set scale.use_gpu to false."
        )


def _open(uri: str, endpoint: str | None) -> tuple[Location, Index, list[str]]:
    folder = locate(uri, endpoint)
    index = read_index(folder)
    cut = check_shards(folder, index)
    return (
        folder,
        index,
        [
            f"{folder.uri}/{name}: is shorter than when it was indexed; its lost samples will be skipped."
            for name in cut
        ],
    )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
