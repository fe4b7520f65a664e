"""A step does not depend on how many workers share it. Real processes, real gloo."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forked_workers import run_in_workers
from shards import write_shards
from streams import make_reader, read_batches
from toy_workload import ToyConfig, ToyWorkload

from orchestrator.config.recipe import BatchSection, DataSection, LengthSection, OptimizerSection, Recipe
from orchestrator.stream.micro_batch import MicroBatch, fingerprint
from orchestrator.stream.order.partition import WorkerPartition
from orchestrator.train.parallel.base import current_collective
from orchestrator.train.parallel.data_parallel import Replicated
from orchestrator.train.step import StepOutcome, Stepper
from workloads.contract import KeyedRandom

STEPS = 4
SAMPLES = 64
MICRO_BATCHES = 5
TOTAL_SAMPLES = 5 * 6 * 3 + 7  # the last step has a short micro-batch and empty ones


def run_worker(rank: int, workers: int, folder: str, rendezvous: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers)
    outcomes, weights = train(folder, rank, workers)
    if rank == 0:
        torch.save(([outcome.metrics for outcome in outcomes], weights), results)
    dist.barrier()
    os._exit(0)  # the interpreter's own exit now and then aborts in a library's threads, which is not under test


def train(folder: str, rank: int, workers: int) -> tuple[list[StepOutcome], dict[str, torch.Tensor]]:
    stepper, model = make_stepper(folder)
    reader = make_reader(folder, size=6, micro_batches=MICRO_BATCHES, total=TOTAL_SAMPLES)
    partition = WorkerPartition(MICRO_BATCHES, workers, first_step=0, steps=STEPS)
    outcomes = [
        stepper.run(step, read_batches(reader, partition.micro_batches_of(step, rank))) for step in range(STEPS)
    ]
    return outcomes, model.state_dict()


def single(folder: str) -> tuple[Stepper, torch.nn.Module, Callable[[int], list[MicroBatch]]]:
    stepper, model = make_stepper(folder)
    reader = make_reader(folder, size=6, micro_batches=MICRO_BATCHES, total=TOTAL_SAMPLES)
    partition = WorkerPartition(MICRO_BATCHES, 1, first_step=0, steps=STEPS)
    return stepper, model, lambda step: read_batches(reader, partition.micro_batches_of(step, 0))


def make_stepper(folder: str) -> tuple[Stepper, torch.nn.Module]:
    recipe = Recipe(
        name="toy",
        workload="toy",
        precision="float64",
        data=DataSection(train=folder),
        batch=BatchSection(micro_batches=MICRO_BATCHES, micro_batch_size=6),
        length=LengthSection(steps=STEPS),
        optimizer=OptimizerSection(learning_rate=0.01, clip_norm=0.5),
    )
    workload = ToyWorkload(ToyConfig())
    device = torch.device("cpu")
    model = workload.build(device, KeyedRandom((1,))).double()
    collective = current_collective(device)
    parallel = Replicated(list(model.parameters()), collective, bucket_bytes=64)
    return Stepper(recipe, workload, parallel, collective, STEPS, SAMPLES, device), model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(str(tmp_path_factory.mktemp("shards")), SAMPLES)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_do_not_change_the_mathematics(tmp_path: Path, folder: str, workers: int) -> None:
    outcomes, weights = train(folder, 0, 1)
    results = str(tmp_path / "results.pt")
    run_in_workers(run_worker, (workers, folder, str(tmp_path / "rendezvous"), results), workers)
    shared_metrics, shared_weights = torch.load(results, weights_only=True)
    for alone, shared in zip(outcomes, shared_metrics, strict=True):
        assert shared == pytest.approx(alone.metrics, rel=1e-12)
    for name, tensor in weights.items():
        torch.testing.assert_close(shared_weights[name], tensor, rtol=1e-10, atol=1e-12)


def test_a_step_counts_its_samples(folder: str) -> None:
    outcomes, _ = train(folder, 0, 1)
    assert [outcome.samples for outcome in outcomes] == [30, 30, 30, 7]
    assert all(outcome.metrics["gradient_norm"] > 0 for outcome in outcomes)


def test_a_step_knows_the_keys_of_all_its_micro_batches(folder: str) -> None:
    outcomes, _ = train(folder, 0, 1)
    reader = make_reader(folder, size=6, micro_batches=MICRO_BATCHES, total=TOTAL_SAMPLES)
    for step, outcome in enumerate(outcomes):
        numbers = range(step * MICRO_BATCHES, (step + 1) * MICRO_BATCHES)
        assert outcome.fingerprints == tuple(fingerprint(reader.keys(number)) for number in numbers)


def test_a_step_whose_gradient_is_no_number_changes_nothing(tmp_path: Path) -> None:
    stepper, model, batches = single(write_shards(str(tmp_path), SAMPLES))
    stepper.run(0, batches(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = [value.clone() for state in stepper.optimizer.state.values() for value in state.values()]
    broken = batches(1)
    broken[2].features["image"][0] = np.nan
    outcome = stepper.run(1, broken)
    assert not outcome.finite
    assert math.isnan(outcome.metrics["loss"])
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    left = [value for state in stepper.optimizer.state.values() for value in state.values()]
    assert all(torch.equal(one, other) for one, other in zip(left, moments, strict=True))
    assert stepper.run(2, batches(2)).finite
