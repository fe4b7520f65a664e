"""Checkpoints hold the whole state, are verified, and fall back past damage."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoint import (
    CheckpointError,
    RunState,
    load_checkpoint,
    load_newest,
    load_state,
    optimizer_tensors,
    prune,
    restore_optimizer,
    save_checkpoint,
)


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def state_of(step: int) -> RunState:
    return RunState(step, 42, "recipe", "index", "run-id", "toy", {"width": 3}, step / 10)


def save(run: RunFolder, step: int) -> Path:
    model, optimizer = trained(step)
    moments = optimizer_tensors(optimizer, model)
    return Path(save_checkpoint(run.checkpoints, state_of(step), model.state_dict(), moments).path)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(locate(str(tmp_path / "run")))


def test_training_goes_on_exactly_from_a_checkpoint(run: RunFolder) -> None:
    save(run, 3)
    loaded = load_newest(run)
    assert loaded is not None
    assert loaded.state == state_of(3)
    assert load_state(run.committed_checkpoints()[0]) == state_of(3)
    model, optimizer = trained(0)
    model.load_state_dict(dict(loaded.model))
    restore_optimizer(optimizer, model, loaded.optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()
    expected, _ = trained(5)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(run: RunFolder, file: str, damage: str) -> None:
    save(run, 1)
    victim = save(run, 2) / file
    content = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content if damage == "flip" else content[:-7])
    said: list[str] = []
    loaded = load_newest(run, said.append)
    assert loaded is not None
    assert loaded.state.next_step == 1
    assert file in said[0]


def test_a_folder_without_a_manifest_is_no_checkpoint(run: RunFolder) -> None:
    save(run, 1)
    (save(run, 2) / "manifest.json").unlink()
    assert [place.name for place in run.committed_checkpoints()] == ["step-00000001"]
    assert run.newest_step() == 1


def test_a_damaged_manifest_is_passed_over(run: RunFolder) -> None:
    save(run, 1)
    (save(run, 2) / "manifest.json").write_text("{")
    loaded = load_newest(run)
    assert loaded is not None
    assert loaded.state.next_step == 1


def test_an_unknown_format_version_is_refused(run: RunFolder) -> None:
    place = save(run, 1)
    manifest = (place / "manifest.json").read_text().replace('"format_version": 2', '"format_version": 99')
    (place / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match="format version 99 is unknown"):
        load_checkpoint(run.committed_checkpoints()[0])


def test_moments_follow_their_parameters_into_other_groups() -> None:
    model, optimizer = trained(2)
    other = torch.optim.AdamW([{"params": [model.bias]}, {"params": [model.weight]}], lr=0.1)
    restore_optimizer(other, model, optimizer_tensors(optimizer, model))
    for parameter in model.parameters():
        for entry in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(other.state[parameter][entry], optimizer.state[parameter][entry])


def test_moments_of_an_unknown_parameter_are_refused() -> None:
    model, optimizer = trained(1)
    with pytest.raises(CheckpointError, match="optimiser state of gone, which this run does not train"):
        restore_optimizer(optimizer, model, {"exp_avg/gone": torch.zeros(3)})


def test_no_checkpoint_is_none(run: RunFolder) -> None:
    assert load_newest(run) is None


def test_prune_keeps_the_newest_and_removes_leftovers(run: RunFolder) -> None:
    for step in (1, 2, 3, 4):
        save(run, step)
    (save(run, 5) / "manifest.json").unlink()
    prune(run, keep=2)
    assert [place.name for place in run.checkpoints.list()] == ["step-00000003", "step-00000004"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_a_full_disk_is_explained_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        run = RunFolder(locate(str(small / "run")))
        save(run, 1)
        model = torch.nn.Linear(200, 400)
        with pytest.raises(CheckpointError, match=r"step 2 .*No space left on device.*Free some space"):
            save_checkpoint(
                run.checkpoints,
                state_of(2),
                model.state_dict(),
                {},
            )
        assert [place.name for place in run.checkpoints.list()] == ["step-00000001"]
        assert load_newest(run) is not None
    finally:
        subprocess.run(["umount", str(small)], check=True)
