"""Maps a function over many items in Ray tasks, on all nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import ray
from ray.exceptions import RayTaskError

from orchestrator.config.errors import FuserayError
from orchestrator.stream.data_set.index import DataSetError
from orchestrator.stream.indexing.parallel import AHEAD, Item, Result


@dataclass(frozen=True, slots=True)
class InRayTasks:
    """A `Mapper` by tasks of one CPU each; Ray must be connected, and function, items and results travel pickled."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map.

        Raises:
            DataSetError: the cluster has no CPU for a task.
        """
        limit = AHEAD * _cpus()
        task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_retries=3)(function)
        running: list[ray.ObjectRef[Result]] = []
        try:
            for item in items:
                running.append(task.remote(item))
                if len(running) >= limit:
                    done, running = ray.wait(running)
                    yield from map(_result, done)
            while running:
                done, running = ray.wait(running)
                yield from map(_result, done)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _result(reference: ray.ObjectRef[Result]) -> Result:
    try:
        result: Result = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, FuserayError):
            raise error.cause from error
        raise
    return result


def _cpus() -> int:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < 1:
        raise DataSetError("the Ray cluster has no CPU for reading shards; add a node with CPUs, or leave out --ray.")
    return cpus
