"""Workers that hold shards train the same model as one worker alone. Real processes, real gloo, a tiny ALBEF."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forked_workers import run_in_workers
from torch import Tensor

from orchestrator.config.recipe import (
    BatchSection,
    CheckpointSection,
    DataSection,
    LengthSection,
    OptimizerSection,
    Recipe,
    ScaleSection,
)
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.train.checkpoints.load import load_checkpoint, optimizer_tensors
from orchestrator.train.checkpoints.manager import CheckpointWriter
from orchestrator.train.checkpoints.manifest import RunState
from orchestrator.train.parallel.base import current_collective
from orchestrator.train.parallel.fsdp import Sharded
from orchestrator.train.parallel.parallelize import parallelize_model
from orchestrator.train.resume import InitialState
from orchestrator.train.step import Stepper
from workloads.albef.config import AlbefConfig
from workloads.albef.retrieval import RetrievalConfig
from workloads.albef.workload import AlbefWorkload
from workloads.contract import KeyedRandom

CPU = torch.device("cpu")
Precision = Literal["float32", "float64"]
STEPS, SIZE, WORKERS = 3, 4, 2
FULL = (SIZE,) * 12
UNEVEN = (SIZE, 1, SIZE, 0, SIZE, SIZE, 0, 0, 1)  # three per step: for two workers, two and one
CASES: dict[str, tuple[int, tuple[int, ...], int, Precision]] = {
    "two": (2, FULL[:6], 0, "float64"),
    "four": (4, FULL, 0, "float64"),
    "uneven": (3, UNEVEN, 0, "float64"),
    "adversarial": (2, FULL[:6], 2, "float64"),
    "single": (2, FULL[:6], 0, "float32"),
    "locked": (2, FULL[:6], 2, "float64"),
    "retrieval": (2, FULL[:6], 2, "float64"),
}
"""Micro-batches per step, samples of each, adversarial passes, precision."""

LOCKS = {"locked": {"vision": 1, "text": 1}}
SAVED = ("two", "locked", "retrieval")
"""Cases that go on from a checkpoint as well."""

OTHERWISE = (("two", "locked"), ("locked", "two"))
"""Cases that go on from a checkpoint with other locks."""

STATE = RunState(
    next_step=2,
    seed=1,
    recipe_digest="",
    index_digest="",
    mlflow_run_id="",
    workload="albef",
    config={},
    epochs=1.0,
)

MODEL = {
    "image_size": 32,
    "vision": {"patch": 16, "width": 48, "depth": 2, "heads": 3},
    "text": {"width": 48, "layers": 2, "fusion_layers": 2, "heads": 3, "vocabulary": 300, "positions": 16},
    "embed_dim": 32,
    "dropout": 0.1,
    "vision_weights": None,
    "text_weights": None,
}

Outcome = tuple[list[dict[str, float]], dict[str, Tensor]]


class Trainer:
    """One worker of a run."""

    def __init__(self, case: str, rank: int, workers: int) -> None:
        self.per_step, self.samples, passes, precision = CASES[case]
        self.rank, self.workers = rank, workers
        values = {
            "model": {**MODEL, "lock": LOCKS.get(case, {})},
            "contrastive": {"queue_size": 16},
            "distillation": {"ramp_epochs": 0.0, "momentum": 0.9},
            "adversarial": {"steps": passes, "perturb": ["text", "image"]},
        }
        recipe = Recipe(
            name="tiny",
            workload="albef",
            precision=precision,
            data=DataSection(train="unused"),
            batch=BatchSection(micro_batches=self.per_step, micro_batch_size=SIZE),
            length=LengthSection(steps=STEPS),
            optimizer=OptimizerSection(learning_rate=1e-3, clip_norm=0.5),
            scale=ScaleSection(workers=workers, parallel="sharded"),
        )
        config_type = RetrievalConfig if case == "retrieval" else AlbefConfig
        self.workload = AlbefWorkload(config_type.model_validate(values))
        self.model = self.workload.build(CPU, KeyedRandom((1,))).to(getattr(torch, precision))
        collective = current_collective(CPU)
        self.parallel = parallelize_model(recipe, self.workload, self.model, collective, CPU)
        self.stepper = Stepper(recipe, self.workload, self.parallel, collective, STEPS, 64, CPU)

    def train(self, steps: Sequence[int]) -> list[dict[str, float]]:
        return [dict(self.stepper.run(step, self._share(step)).metrics) for step in steps]

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.parallel.gather(self.model.state_dict()).items()}

    def save(self, folder: str) -> None:
        writer = CheckpointWriter(RunFolder(locate(folder)), self.rank, self.workers, "token", CheckpointSection())
        moments = optimizer_tensors(self.stepper.optimizer, self.model)
        writer.save(STATE, self.model.state_dict(), moments, self.parallel)
        writer.close()

    def load(self, folder: str) -> None:
        checkpoint = load_checkpoint(locate(folder) / "checkpoints" / "step-00000002")
        InitialState(2, checkpoint, with_optimizer=True).restore(self.model, self.stepper.optimizer, self.parallel)

    def _share(self, step: int) -> list[MicroBatch]:
        numbers = range(self.per_step * step, self.per_step * (step + 1))
        return [micro_batch(number, self.samples[number]) for number in numbers[self.rank :: self.workers]]


def micro_batch(number: int, samples: int) -> MicroBatch:
    draw = KeyedRandom(("batch", number)).numpy()
    features = {
        "image": draw.integers(0, 256, (samples, 3, 32, 32), dtype=np.uint8),
        "input_ids": draw.integers(110, 300, (samples, 12)),
        "length": draw.integers(6, 13, samples),
        "image_id": draw.integers(2**62, 2**62 + 9, samples),
    }
    return MicroBatch(number, tuple(map(str, range(samples))), features if samples else {}, (), 0)


def train_case(case: str, rank: int, workers: int) -> Outcome:
    trainer = Trainer(case, rank, workers)
    assert isinstance(trainer.parallel, Sharded) == (workers > 1)
    return trainer.train(range(STEPS)), trainer.state()


def resume(case: str, folder: str, rank: int, workers: int, saved: str | None = None) -> Outcome:
    """Go on from the checkpoint of a case, the own one unless another is given."""
    trainer = Trainer(case, rank, workers)
    trainer.load(f"{folder}/{saved or case}")
    return trainer.train([2]), trainer.state()


def start_and_save(folder: str, rank: int, workers: int) -> None:
    for case in SAVED:
        trainer = Trainer(case, rank, workers)
        trainer.train([0, 1])
        trainer.save(f"{folder}/{case}")


def shard_bytes(rank: int) -> list[int]:
    """Bytes of parameters and moments that a worker holds between steps, and those of the whole."""
    trainer = Trainer("two", rank, WORKERS)
    trainer.train([0])
    tensors = [*trainer.model.parameters(), *optimizer_tensors(trainer.stepper.optimizer, trainer.model).values()]
    own = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return [sum(tensor.numel() * tensor.element_size() for tensor in held) for held in (own, tensors)]


def evaluate_on_rank_zero(rank: int) -> Tensor:
    trainer = Trainer("two", rank, WORKERS)
    with trainer.parallel.unsharded(), torch.no_grad():
        if rank:
            return torch.zeros(())
        tokens: Tensor = trainer.workload.model.student.image_tokens(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return tokens


def run_worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS)
    results = {
        **{case: train_case(case, rank, WORKERS) for case in CASES},
        **{f"resumed {case}": resume(case, f"{folder}/alone", rank, WORKERS) for case in SAVED},
        **{f"{case} from {saved}": resume(case, f"{folder}/alone", rank, WORKERS, saved) for case, saved in OTHERWISE},
        "bytes": shard_bytes(rank),
        "tokens": evaluate_on_rank_zero(rank),
    }
    start_and_save(f"{folder}/sharded", rank, WORKERS)
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.barrier()
    os._exit(0)  # the interpreter's own exit now and then aborts in a library's threads, which is not under test


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    start_and_save(str(folder / "alone"), 0, 1)
    run_in_workers(run_worker, (str(folder),), WORKERS)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Outcome]:
    loaded: dict[str, Outcome] = torch.load(folder / "results.pt", weights_only=True)
    return loaded


def assert_same(found: Outcome, expected: Outcome, tolerance: float = 1e-9) -> None:
    for ours, wanted in zip(found[0], expected[0], strict=True):
        assert ours == pytest.approx(wanted, rel=tolerance)
    assert set(found[1]) == set(expected[1])
    for name, tensor in expected[1].items():
        exact = 0.0 if not tensor.is_floating_point() else tolerance
        torch.testing.assert_close(found[1][name], tensor, rtol=exact, atol=exact, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_shards_do_not_change_the_mathematics(results: dict[str, Outcome], case: str) -> None:
    tolerance = 1e-9 if CASES[case][-1] == "float64" else 1e-3
    assert_same(results[case], train_case(case, 0, 1), tolerance)


@pytest.mark.parametrize("case", SAVED)
def test_shards_go_on_from_a_checkpoint_of_one_worker(results: dict[str, Outcome], case: str) -> None:
    metrics, state = train_case(case, 0, 1)
    assert_same(results[f"resumed {case}"], (metrics[2:], state))


@pytest.mark.parametrize(("case", "saved"), OTHERWISE)
def test_shards_start_from_a_checkpoint_with_other_locks(
    folder: Path, results: dict[str, Outcome], case: str, saved: str
) -> None:
    assert_same(results[f"{case} from {saved}"], resume(case, str(folder / "alone"), 0, 1, saved))


@pytest.mark.parametrize("case", SAVED)
def test_one_worker_goes_on_from_a_checkpoint_of_shards(folder: Path, results: object, case: str) -> None:
    metrics, state = train_case(case, 0, 1)
    assert_same(resume(case, str(folder / "sharded"), 0, 1), (metrics[2:], state))


def test_a_checkpoint_has_no_optimizer_state_of_locked_parameters(folder: Path, results: object) -> None:
    student = Trainer("locked", 0, 1).workload.model.student
    trained = {f"student.{name}" for name, parameter in student.named_parameters() if parameter.requires_grad}
    for writer in ("alone", "sharded"):
        checkpoint = load_checkpoint(locate(f"{folder}/{writer}/locked") / "checkpoints" / "step-00000002")
        assert {name.partition("/")[2] for name in checkpoint.optimizer} == trained


def test_each_worker_holds_its_part_between_steps(results: dict[str, list[int]]) -> None:
    own, whole = results["bytes"]
    assert own / whole == pytest.approx(1 / WORKERS, rel=0.05)


def test_one_worker_can_use_the_whole_model_between_steps(results: dict[str, Tensor]) -> None:
    student = Trainer("two", 0, 1).workload.model.student
    with torch.no_grad():
        expected = student.image_tokens(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    torch.testing.assert_close(results["tokens"], expected)
