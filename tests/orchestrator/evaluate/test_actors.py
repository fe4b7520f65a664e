"""Evaluations in actors on a small local Ray: equal to the bit for any number of them, whatever is lost on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
from measured import SeededModel
from shards import write_shards
from toy_workload import ToyOptions

from orchestrator.evaluate.features import SpillingFeatures
from orchestrator.evaluate.held_out import HeldOutSamples, Measurement
from orchestrator.evaluate.measure import InProcess, Measuring
from orchestrator.evaluate.pool import MeasuringError, PoolOptions, RayExecutor, actor_pool
from orchestrator.evaluate.shared import Exchange, ExchangeClient, SharedExecutor, ShareError
from orchestrator.ray_internals import without_unused_processes
from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import read_index
from workloads.contract import EvaluationOptions
from workloads.downstream.retrieval_options import RetrievalOptions

OPTIONS: dict[str, EvaluationOptions] = {
    "toy": ToyOptions(block=3, compare=2, gallery=4),
    "albef": RetrievalOptions(block=3, batch_size=2, rerank=4, gallery=3, heat_maps=3),
}


@pytest.fixture(scope="module", autouse=True)
def tiny_ray() -> Iterator[None]:
    """Ray, whose processes search for modules where this one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with without_unused_processes():
            ray.init(num_cpus=4, object_store_memory=80_000_000, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOutSamples:
    folder = locate(write_shards(str(tmp_path_factory.mktemp("data")), 14, per_shard=5))
    return HeldOutSamples.of(folder, read_index(folder), 3)


def in_process(held_out: HeldOutSamples, kind: str) -> Measurement:
    with SeededModel(kind).load().evaluator(OPTIONS[kind]) as evaluator, SpillingFeatures(10**6) as features:
        return Measuring(evaluator, held_out, InProcess(evaluator, held_out, features)).run()


def in_actors(held_out: HeldOutSamples, source: SeededModel, workers: int, log: list[str] | None = None) -> Measurement:
    options, said = OPTIONS[source.kind], [] if log is None else log
    pool = actor_pool(source, options, held_out, PoolOptions(workers, 0.5), said.append)
    with source.without_model().evaluator(options) as planner, pool:
        return Measuring(planner, held_out, RayExecutor(pool, held_out, planner.feature_names)).run()


def lose() -> None:
    raise ray.exceptions.ObjectLostError("", None, "")


def lost_reference() -> ray.ObjectRef[None]:
    """A reference that cannot be fetched, as when the machine with the object is lost."""
    return ray.remote(lose).options(num_cpus=0).remote()


def by_workers(held_out: HeldOutSamples, kind: str, size: int) -> list[Measurement]:
    exchange = ray.remote(Exchange).options(num_cpus=0).remote(size)
    workloads = [SeededModel(kind).load() for _ in range(size)]  # not in the threads, which share a generator

    def work(rank: int) -> Measurement:
        with workloads[rank].evaluator(OPTIONS[kind]) as evaluator:
            executor = SharedExecutor(evaluator, held_out, ExchangeClient(exchange, rank, size))
            return Measuring(evaluator, held_out, executor).run()

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(work, range(size)))


def assert_equal(one: Measurement, other: Measurement) -> None:
    """Equal to the bit, the heat maps included."""
    assert one == other
    for gallery, same in zip(one.evaluation.galleries, other.evaluation.galleries, strict=True):
        for row, its in zip(gallery.rows, same.rows, strict=True):
            for picture, copy in zip(row.pictures, its.pictures, strict=True):
                assert (picture.map_HW is None) == (copy.map_HW is None)
                if picture.map_HW is not None:
                    assert np.array_equal(picture.map_HW, copy.map_HW)


@pytest.mark.parametrize(("kind", "numbers"), [("toy", (3,)), ("albef", (1, 2, 3))])
def test_any_number_of_actors_gives_the_figures_of_one_process(
    held_out: HeldOutSamples, kind: str, numbers: tuple[int, ...]
) -> None:
    expected = in_process(held_out, kind)
    assert expected.evaluation.galleries
    for workers in numbers:
        assert_equal(in_actors(held_out, SeededModel(kind), workers), expected)


@pytest.mark.parametrize("stage", ["encode", "score"])
def test_an_actor_that_is_killed_costs_nothing_but_time(held_out: HeldOutSamples, stage: str, tmp_path: Path) -> None:
    log: list[str] = []
    source = SeededModel("toy", stage, tmp_path / "died")
    assert_equal(in_actors(held_out, source, 2, log), in_process(held_out, "toy"))
    assert (tmp_path / "died").exists()
    assert len([line for line in log if "another one does its work" in line]) == 1


def test_actors_that_die_again_and_again_are_given_up(held_out: HeldOutSamples) -> None:
    with pytest.raises(MeasuringError, match=r"lost in a row without finishing anything.*evaluation\.batch_size"):
        in_actors(held_out, SeededModel("toy", "score"), 1)


def test_lost_features_are_made_again(held_out: HeldOutSamples) -> None:
    source, options = SeededModel("toy"), OPTIONS["toy"]
    pool = actor_pool(source, options, held_out, PoolOptions(1, 0.5), print)
    with source.without_model().evaluator(options) as planner, pool:
        executor = RayExecutor(pool, held_out, planner.feature_names)
        blocks = sorted(executor.encode(range(held_out.blocks)), key=lambda block: block.number)
        chunks = planner.plan([block.summary for block in blocks])
        executor._features[1, "outputs"] = lost_reference()
        results = dict(executor.score(dict(enumerate(chunks))))
        evaluation = planner.finish(
            [block.summary for block in blocks], chunks, [results[number] for number in range(len(chunks))]
        )
    assert evaluation.metrics["distance"] == in_process(held_out, "toy").evaluation.metrics["distance"]


@pytest.mark.parametrize("kind", ["toy", "albef"])
def test_workers_that_share_the_work_come_to_the_same_outcome(held_out: HeldOutSamples, kind: str) -> None:
    expected = in_process(held_out, kind)
    for size in (2, 3):
        for measured in by_workers(held_out, kind, size):
            assert_equal(measured, expected)


def test_all_workers_hear_of_it_when_one_cannot_do_its_share() -> None:
    exchange = ray.remote(Exchange).options(num_cpus=0).remote(2)

    def fail() -> None:
        raise ValueError("no room")

    def work(rank: int) -> Exception | None:
        client = ExchangeClient(exchange, rank, 2)
        assert client.gather(lambda: rank) == [0, 1]
        try:
            client.gather(fail if rank else lambda: rank)
        except (ValueError, ShareError) as error:
            return error
        return None

    with ThreadPoolExecutor(2) as threads:
        heard, failed = threads.map(work, range(2))
    assert (type(heard), str(heard)) == (ShareError, "no room")
    assert type(failed) is ValueError
