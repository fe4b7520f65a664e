"""A stored checkpoint of the present format version loads, and one of another version is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from official_albef import HEADS, nested
from saving import rewrite_as_version_two
from toy_workload import ToyConfig, ToyWorkload

from orchestrator.storage.location import Location, locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import (
    load_checkpoint,
    load_newest,
    newest_state,
    optimizer_tensors,
    restore_optimizer,
)
from orchestrator.train.checkpoints.maintenance import Condition, list_checkpoints, verify
from orchestrator.train.checkpoints.manifest import CheckpointError, DamagedError, read_manifest
from orchestrator.train.convert import ExportSource, export_format, is_import, write_import
from workloads.contract import KeyedRandom
from workloads.interop.albef_format import FORMAT

DATA = Path(__file__).parent / "data"
REFUSED = r"manifest\.json: format version 2 is not supported \(supported: 3\)"


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The toy after three steps, as it was saved."""
    model = ToyWorkload(ToyConfig()).build(torch.device("cpu"), KeyedRandom((1,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for step in range(3):
        optimizer.zero_grad()
        images, words = model["image"](torch.ones(2, 16)), model["words"](torch.ones(2, 2))
        images.square().sum().add(words.square().sum()).backward()
        optimizer.step()
        model.queue.copy_(torch.arange(model.queue.numel()).view_as(model.queue) + step)
    return model, optimizer


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    shutil.copytree(DATA / "version-3", tmp_path / "run")
    return RunFolder(locate(str(tmp_path / "run")))


@pytest.fixture
def old_run(run: RunFolder) -> RunFolder:
    """A run whose checkpoint is of version 2."""
    (folder,) = run.committed_checkpoints()
    rewrite_as_version_two(folder)
    return run


def test_a_stored_checkpoint_loads_into_model_and_optimiser(run: RunFolder) -> None:
    loaded = load_newest(run)
    assert loaded is not None
    state = loaded.state
    assert (state.next_step, state.seed, state.workload, state.epochs) == (3, 42, "toy", 0.5)
    assert (state.config, state.stream) == ({"width": 8}, {"fingerprints": [1, 2]})
    model = ToyWorkload(ToyConfig()).build(torch.device("cpu"), KeyedRandom((2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model.load_state_dict(dict(loaded.model))
    restore_optimizer(optimizer, model, loaded.optimizer)
    expected, expected_optimizer = trained()
    torch.testing.assert_close(model.state_dict(), expected.state_dict())
    torch.testing.assert_close(optimizer_tensors(optimizer, model), optimizer_tensors(expected_optimizer, expected))


def test_a_stored_checkpoint_is_listed_verified_and_found(run: RunFolder) -> None:
    (entry,) = list_checkpoints(run)
    assert (entry.step, entry.condition) == (3, Condition.WHOLE)
    assert entry.changed is not None
    assert [result.entry.condition for result in verify(run)] == [Condition.WHOLE]
    found = newest_state(run)
    assert found is not None
    assert found.state.next_step == 3


def test_damage_is_found_in_every_file(run: RunFolder) -> None:
    (place,) = run.committed_checkpoints()
    for name in read_manifest(place).files:
        content = (place / name).read()
        (place / name).write(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DamagedError, match=name):
            load_checkpoint(place)
        (place / name).write(content)
    load_checkpoint(place)


@pytest.mark.parametrize("load", [load_newest, newest_state], ids=["load_newest", "newest_state"])
def test_an_older_version_is_not_loaded(old_run: RunFolder, load: Callable[[RunFolder], object]) -> None:
    with pytest.raises(CheckpointError, match=REFUSED):
        load(old_run)


def test_an_older_version_is_listed_as_unknown_and_not_verified(old_run: RunFolder) -> None:
    (entry,) = list_checkpoints(old_run)
    assert (entry.step, entry.condition) == (3, Condition.UNKNOWN)
    assert "format version 2 is not supported" in entry.reason
    assert [result.entry.condition for result in verify(old_run)] == [Condition.UNKNOWN]


@pytest.fixture
def imported(tmp_path: Path) -> Location:
    """A checkpoint of version 2 that was imported."""
    torch.save(nested("pretrain"), tmp_path / "official.pth")
    place = locate(str(tmp_path / "imported"))
    write_import(FORMAT.read(tmp_path / "official.pth", HEADS), place, "albef", "official.pth")
    rewrite_as_version_two(place)
    return place


def test_an_import_of_an_older_version_is_not_exported(imported: Location, tmp_path: Path) -> None:
    assert is_import(imported)
    with pytest.raises(CheckpointError, match=REFUSED):
        export_format(ExportSource(imported, None), tmp_path / "out.pth", FORMAT, flat=False)
    assert not (tmp_path / "out.pth").exists()
