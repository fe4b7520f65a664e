"""Checkpoints go from any number of workers to any other, replicated or sharded. Real processes, real gloo."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked_workers import run_in_workers
from saving import ALL, alone, assert_same, state_of
from torch import Tensor, nn

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import load_newest, optimizer_tensors
from orchestrator.train.checkpoints.manager import CheckpointWriter, broadcast_save_id
from orchestrator.train.checkpoints.manifest import CheckpointError
from orchestrator.train.parallel.base import Parallel, SingleWorker, current_collective
from orchestrator.train.parallel.data_parallel import Replicated
from orchestrator.train.parallel.fsdp import Sharded
from orchestrator.train.resume import InitialState, check_agreement

CPU = torch.device("cpu")
CHAINS = {"first": ("replicated", "sharded"), "second": ("sharded", "replicated"), "third": ("sharded", "sharded")}
"""How three workers and then two share the model, by the name of the run."""

STAGES = (3, 2)


class Model(nn.Module):
    """Rows that do not divide by the workers, fewer rows than workers, a scalar, and buffers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 7)
        self.few = nn.Parameter(torch.randn(2, 6))
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.register_buffer("queue", torch.randn(3, 4).bfloat16())
        self.register_buffer("position", torch.tensor(5))
        self.register_buffer("nothing", torch.empty(0, 4))


def built(seed: int) -> Model:
    torch.manual_seed(seed)
    return Model()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def shared(model: Model, mode: str) -> Parallel:
    collective = current_collective(CPU)
    if mode == "sharded":
        return Sharded(model, [model.layer], collective, CPU)
    return Replicated(list(model.parameters()), collective)


def begin(folder: str) -> None:
    """Save step 1 as one worker, after an optimiser step."""
    for name in CHAINS:
        model = built(seed=1)
        optimizer = optimizer_of(model)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        save(name, folder, 1, model, optimizer, alone(), 0, 1, "one")


def save(
    name: str,
    folder: str,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parallel: Parallel,
    rank: int,
    workers: int,
    start: str,
) -> None:
    writer = CheckpointWriter(run_of(folder, name), rank, workers, start, ALL)
    writer.save(state_of(step), model.state_dict(), optimizer_tensors(optimizer, model), parallel)
    writer.close()


def run_of(folder: str, name: str) -> RunFolder:
    return RunFolder(locate(f"{folder}/{name}"))


def run_worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    for place, workers in enumerate(STAGES):
        if rank < workers:
            carry_on(rank, workers, folder, place)
    os._exit(0)  # the interpreter's own exit now and then aborts in a library's threads, which is not under test


def carry_on(rank: int, workers: int, folder: str, place: int) -> None:
    """Load the newest checkpoint of every run and save it as that of the next step."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{workers}", rank=rank, world_size=workers)
    collective = current_collective(CPU)
    for name, modes in CHAINS.items():
        model = built(seed=2 + rank if modes[place] == "replicated" else 2)
        parallel = shared(model, modes[place])
        optimizer = optimizer_of(model)
        checkpoint = load_newest(run_of(folder, name))
        assert checkpoint is not None
        step = checkpoint.state.next_step
        check_agreement(step, collective)
        InitialState(step, checkpoint, with_optimizer=True).restore(model, optimizer, parallel)
        save(name, folder, step + 1, model, optimizer, parallel, rank, workers, broadcast_save_id(collective))
        dist.barrier()
    assert disagreement(rank) == f"of the steps {[7] + [0] * (workers - 1)}"
    dist.barrier()
    dist.destroy_process_group()


def disagreement(rank: int) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_agreement(0 if rank else 7, current_collective(CPU))
    return str(caught.value).partition("checkpoints, ")[2].partition(".")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    begin(str(folder))
    run_in_workers(run_worker, (str(folder),), max(STAGES))
    return folder


def loaded(folder: Path, name: str) -> tuple[int, dict[str, Tensor], dict[str, Tensor]]:
    found = load_newest(run_of(str(folder), name))
    assert found is not None
    return found.state.next_step, dict(found.model), dict(found.optimizer)


@pytest.mark.parametrize("name", CHAINS)
def test_one_worker_loads_what_went_through_three_and_two(folder: Path, name: str) -> None:
    step, model, moments = loaded(folder, name)
    assert step == 3
    expected = built(seed=1)
    optimizer = optimizer_of(expected)
    for parameter in expected.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert_same(model, expected.state_dict())
    assert_same(moments, optimizer_tensors(optimizer, expected))


@pytest.mark.parametrize("name", CHAINS)
def test_every_worker_wrote_a_share(folder: Path, name: str) -> None:
    place = run_of(str(folder), name).checkpoints / "step-00000002"
    for content in ("model", "optimizer"):
        assert len([file for file in place.sizes() if file.startswith(content)]) == 3
    if name == "second":
        import_whole = [file for file in place.list() if file.name.startswith("model-2")]
        assert b'"layer.weight"' in import_whole[0].read()
        assert b'"few"' not in import_whole[0].read()  # two rows, for workers 0 and 1


def test_a_worker_alone_agrees_with_itself_and_draws_its_own_token() -> None:
    check_agreement(3, SingleWorker())
    tokens = {broadcast_save_id(SingleWorker()) for _ in range(3)}
    assert len(tokens) == 3
    assert all(len(token) == 16 for token in tokens)
