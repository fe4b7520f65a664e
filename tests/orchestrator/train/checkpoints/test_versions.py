"""Checkpoints of every version of the format load: those in data/ were written by the code of their time."""

import shutil
from pathlib import Path

import pytest
import torch
from official_albef import HEADS, nested
from toy_workload import ToyConfig, ToyWorkload
from version_two import rewrite_as_version_two

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
from orchestrator.train.checkpoints.manifest import DamagedError, read_manifest
from orchestrator.train.convert import ExportSource, export_format, is_import, write_import
from workloads.contract import KeyedRandom
from workloads.interop.albef_format import FORMAT

DATA = Path(__file__).parent / "data"
VERSIONS = ("version-2", "version-3")


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The toy after three steps, as it was saved in every version."""
    model = ToyWorkload(ToyConfig()).build(torch.device("cpu"), KeyedRandom((1,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for step in range(3):
        optimizer.zero_grad()
        images, words = model["image"](torch.ones(2, 16)), model["words"](torch.ones(2, 2))
        images.square().sum().add(words.square().sum()).backward()
        optimizer.step()
        model.queue.copy_(torch.arange(model.queue.numel()).view_as(model.queue) + step)
    return model, optimizer


@pytest.fixture(params=VERSIONS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    shutil.copytree(DATA / request.param, tmp_path / "run")
    return RunFolder(locate(str(tmp_path / "run")))


def test_every_version_loads_into_model_and_optimiser(run: RunFolder) -> None:
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


def test_every_version_is_listed_verified_and_found(run: RunFolder) -> None:
    (entry,) = list_checkpoints(run)
    assert (entry.step, entry.condition) == (3, Condition.WHOLE)
    assert entry.changed is not None
    assert [verdict.entry.condition for verdict in verify(run)] == [Condition.WHOLE]
    found = newest_state(run)
    assert found is not None
    assert found.state.next_step == 3


def test_damage_is_found_in_every_version(run: RunFolder) -> None:
    (place,) = run.committed_checkpoints()
    for name in read_manifest(place).files:
        content = (place / name).read()
        (place / name).write(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DamagedError, match=name):
            load_checkpoint(place)
        (place / name).write(content)
    load_checkpoint(place)


@pytest.fixture
def imported(tmp_path: Path) -> Location:
    """A checkpoint of version 2 that was imported."""
    torch.save(nested("pretrain"), tmp_path / "official.pth")
    place = locate(str(tmp_path / "imported"))
    write_import(FORMAT.read(tmp_path / "official.pth", HEADS), place, "albef", "official.pth")
    rewrite_as_version_two(place)
    assert read_manifest(place).version == 2
    return place


def test_an_import_of_the_version_before_is_exported(imported: Location, tmp_path: Path) -> None:
    assert is_import(imported)
    export_format(ExportSource(imported, None), tmp_path / "out.pth", FORMAT, flat=False)
    found, expected = (torch.load(tmp_path / name, weights_only=True) for name in ("out.pth", "official.pth"))
    assert found["model"].keys() == expected["model"].keys()
    for name, tensor in expected["model"].items():
        assert torch.equal(found["model"][name], tensor), name
