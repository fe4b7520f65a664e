"""Indexing in Ray tasks, on a small local Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from shards import index_folder, write_shards

from orchestrator.ray_internals import without_unused_processes
from orchestrator.storage.location import locate
from orchestrator.storage.retry import StorageError
from orchestrator.stream.shards.executors import RayTaskMapper
from orchestrator.stream.shards.index_shards import IndexOptions, ShardProgress, make_index

IN_RAY = IndexOptions(mapper=RayTaskMapper())


@pytest.fixture(scope="module", autouse=True)
def tiny_ray() -> Iterator[None]:
    with without_unused_processes():
        ray.init(num_cpus=2, object_store_memory=80_000_000, log_to_driver=False)
    yield
    ray.shutdown()


def test_tasks_make_the_index_that_threads_make(tmp_path: Path) -> None:
    folder = Path(write_shards(str(tmp_path), 60, per_shard=10))
    in_threads = index_folder(locate(str(folder)))
    for sidecar in folder.glob("*.samples.parquet"):
        sidecar.unlink()
    standings: list[ShardProgress] = []
    assert make_index(locate(str(folder)), IN_RAY, standings.append).index.digest == in_threads.digest
    assert len(list(folder.glob("*.samples.parquet"))) == 6
    assert standings[-1] == ShardProgress(6, 6, 60, 0)


def test_an_error_in_a_task_arrives_as_itself(tmp_path: Path) -> None:
    folder = Path(write_shards(str(tmp_path), 20, per_shard=10))

    def lose(_: ShardProgress) -> None:
        (folder / "shard-000000.tar").unlink(missing_ok=True)

    with pytest.raises(StorageError, match=r"^.*shard-000000.tar: cannot be read") as caught:
        make_index(locate(str(folder)), IN_RAY, lose)
    assert "Traceback" not in str(caught.value)
