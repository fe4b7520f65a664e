"""The table of machines and prices, and the user's own figures over it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.prices import read_prices


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path / "home"


def own(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def test_the_table_is_whole() -> None:
    table = read_prices()
    assert date(2025, 6, 1) < table.as_of < date.today()
    assert {"H100", "H200", "A100-40G", "A100-80G", "L40S", "L4", "A10G", "T4", "V100"} <= table.accelerators.keys()
    for name, machine in table.machines.items():
        assert machine.name == name
        assert (machine.accelerator in table.accelerators) == (machine.gpus > 0)
        if machine.on_demand_usd and machine.spot_usd:
            assert machine.spot_usd < machine.on_demand_usd


def test_larger_machines_of_a_family_cost_in_proportion() -> None:
    machines = read_prices().machines
    for family in ("c7i", "c6i", "m7i", "m6i", "n2-standard"):
        rates = [
            machine.on_demand_usd / machine.cpus
            for name, machine in machines.items()
            if name.startswith(family) and machine.on_demand_usd
        ]
        assert len(rates) > 1
        assert max(rates) == pytest.approx(min(rates), rel=1e-3), family


def test_an_entry_of_ones_own_replaces_the_whole_entry(tmp_path: Path) -> None:
    machine = "{cpus: 192, memory_gb: 2199, gpus: 8, accelerator: H100, spot_usd: 12.5}"
    text = f"as_of: 2026-11-01\nmachines:\n  p5.48xlarge: {machine}\n"
    table = read_prices(own(tmp_path, text))
    assert table.as_of == date(2026, 11, 1)
    assert table.usd_per_hour("p5.48xlarge", "spot") == 12.5
    assert table.usd_per_hour("p5.48xlarge", "on-demand") is None
    assert table.usd_per_hour("c7i.8xlarge", "on-demand") == 1.428


def test_machines_of_ones_own_may_be_added(tmp_path: Path) -> None:
    text = (
        "accelerators: {B200: {memory_gb: 180, tflops_bfloat16: 2250}}\n"
        "machines:\n  rack: {cpus: 64, memory_gb: 512, gpus: 4, accelerator: B200, on_demand_usd: 3}\n"
    )
    table = read_prices(own(tmp_path, text))
    assert table.as_of == read_prices().as_of
    assert table.usd_per_hour("rack", "owned") == 3


def test_the_users_file_is_taken_by_itself(home: Path) -> None:
    (home / ".config" / "fuseray").mkdir(parents=True)
    (home / ".config" / "fuseray" / "prices.yaml").write_text("machines: {mine: {cpus: 1, memory_gb: 1}}\n")
    assert "mine" in read_prices().machines


def test_the_users_file_is_looked_for_in_the_users_configuration_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config" / "fuseray").mkdir(parents=True)
    (tmp_path / "config" / "fuseray" / "prices.yaml").write_text("machines: {mine: {cpus: 1, memory_gb: 1}}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert "mine" in read_prices().machines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("machine: {}\n", "1: machine: unknown key 'machine'; did you mean 'machines'?"),
        ("machines:\n  a: {cpu: 1, memory_gb: 1}\n", "2: machines.a.cpu: unknown key 'cpu'; did you mean 'cpus'?"),
        ("machines:\n  a:\n    cpus: 1\n", "2: machines.a.memory_gb: this key is required"),
        ("machines:\n  a:\n    cpus: 0\n    memory_gb: 1\n", "3: machines.a.cpus: must be greater than or equal to 1"),
        ("machines:\n  a: {cpus: 1, memory_gb: 1, gpus: 1}\n", "2: machines.a: a machine has both gpus and an accel"),
        (
            "machines:\n  a: {cpus: 1, memory_gb: 1, gpus: 1, accelerator: H10}\n",
            "unknown key 'H10'; did you mean 'H100'?",
        ),
        ("machines:\n  a: {cpus: 1, memory_gb: 1, spot_usd: -1}\n", "2: machines.a.spot_usd: must be greater"),
        ("as_of: yesterday\n", "1: as_of: "),
    ],
)
def test_a_fault_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = own(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        read_prices(path)
    assert any(said in str(finding) for finding in caught.value.findings), str(caught.value)
    assert all(str(finding).startswith(f"{path}:") for finding in caught.value.findings)


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        read_prices(tmp_path / "absent.yaml")
