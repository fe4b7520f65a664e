"""Fuseray's stream on a local Ray, as the only worker of a run sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

from stream_setting import TRANSFORM_KEYS, Setting, Stream

if TYPE_CHECKING:
    from orchestrator.stream.loader import StreamLoader
    from orchestrator.train.plan import Plan

SEED = 0
WORKER_CPUS = 1
"""CPUs that the worker keeps from the readers, as in a run."""


@contextmanager
def fuseray(setting: Setting) -> Iterator[Callable[[], Stream]]:
    """Do what a run does before its worker iterates: driver, stream, model; inside, ask for step after step."""
    from orchestrator.config.recipe import ScaleSection
    from orchestrator.train.ray_session import ray_session

    readers = max(1, setting.cores - WORKER_CPUS)
    with TemporaryDirectory(prefix="stream-") as folder, ray_session(ScaleSection(), readers, Path(folder) / "log"):
        plan = _plan(setting)
        feed = _feed(plan, setting.cores)
        _build_model(plan)
        yield lambda: (sum(batch.samples for batch in feed.step(step)) for step in range(plan.steps))


def _feed(plan: Plan, cores: int) -> StreamLoader:
    from orchestrator.stream.decoder import Node, decoded_share
    from orchestrator.stream.loader import PrefetchedSegment, StreamLoader
    from orchestrator.stream.ray_dataset import warm_up

    stream, threads = plan.recipe.stream, plan.decode_threads
    share = decoded_share(stream.decode_on, [Node(cores, 0)], 1, WORKER_CPUS, threads)
    read_plan, partition = plan.read_plan(share), plan.partition(0, 1)
    Thread(target=warm_up, args=(read_plan, 0), daemon=True).start()
    prefetched = PrefetchedSegment.of(read_plan, partition)
    return StreamLoader(read_plan, partition, 0, threads, stream.prefetch, _alone, prefetched)


def _build_model(plan: Plan) -> None:
    """Build the model and the optimiser as a worker does while its stream starts."""
    import torch

    from orchestrator.train.step import build_optimizer
    from workloads.contract import KeyedRandom

    workload = plan.resolved.entry.create(plan.resolved.workload)
    workload.build(torch.device("cpu"), KeyedRandom((SEED, "build")), pretrained=False)
    build_optimizer(plan.recipe.optimizer, workload.parameter_groups())


def _alone(parts: Any) -> Any:
    """Stand for the broadcast to the other workers, of which there are none."""
    return parts


def _plan(setting: Setting) -> Plan:
    from orchestrator.config.loading import ResolvedRecipe, find_workload
    from orchestrator.config.recipe import Recipe
    from orchestrator.train.plan import make_plan

    entry = find_workload("albef")
    recipe = Recipe.model_validate(
        {
            "name": "benchmark",
            "workload": "albef",
            "data": {"train": setting.shards},
            "batch": {"micro_batches": 1, "micro_batch_size": setting.batch_size},
            "length": {"epochs": float(setting.epochs)},
            "scale": {"cpus_per_worker": float(WORKER_CPUS)},
            "storage": {"endpoint": setting.endpoint},
        }
    )
    return make_plan(
        ResolvedRecipe(recipe, entry.config_type.model_validate(TRANSFORM_KEYS), entry, entry.evaluation_type())
    )
