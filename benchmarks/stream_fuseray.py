"""Fuseray's stream on a local Ray, as the only worker of a run sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stream_setting import TRANSFORM_KEYS, Setting, Stream

WORKER_CPUS = 1
"""CPUs that the worker keeps from the readers, as in a run."""


@contextmanager
def fuseray(setting: Setting) -> Iterator[Callable[[], Stream]]:
    """Start Ray; inside, opening the stream makes a `Feed` and asks it for step after step of one micro-batch."""
    from orchestrator.spec.recipe import ScaleSection
    from orchestrator.train.ray_session import ray_session

    readers = max(1, setting.cores - WORKER_CPUS)
    with TemporaryDirectory(prefix="stream-") as folder, ray_session(ScaleSection(), readers, Path(folder) / "log"):
        yield lambda: _micro_batches(setting)


def _micro_batches(setting: Setting) -> Stream:
    from orchestrator.stream.feed import Feed
    from orchestrator.stream.placement import Node, decoded_share

    plan = _plan(setting)
    stream, threads = plan.recipe.stream, plan.decode_threads
    share = decoded_share(stream.decode_on, [Node(setting.cores, 0)], 1, WORKER_CPUS, threads)
    feed = Feed(plan.delivery(share), plan.sharing(0, 1), 0, threads, stream.prefetch, _alone)
    for step in range(plan.steps):
        yield sum(micro_batch.samples for micro_batch in feed.step(step))


def _alone(parts: Any) -> Any:
    """Stand for the broadcast to the other workers, of which there are none."""
    return parts


def _plan(setting: Setting) -> Any:
    from orchestrator.spec.loading import ResolvedRecipe
    from orchestrator.spec.recipe import Recipe
    from orchestrator.spec.registry import find_workload
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
    return make_plan(ResolvedRecipe(recipe, entry.config_type.model_validate(TRANSFORM_KEYS), entry))
