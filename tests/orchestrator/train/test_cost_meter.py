"""The meter over starts, deaths and stores that are away; the test is the clock."""

from __future__ import annotations

import threading
from datetime import date
from pathlib import Path

import pytest
from hooked_storage import HookedStorage

from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL
from orchestrator.config.prices import Machine, PriceTable
from orchestrator.storage.location import Location, locate
from orchestrator.track.cost import MachineKind
from orchestrator.train.budget import CostMeter, machine_kinds, metering

GPU = MachineKind("p5", "spot", 36.0)
CPU = MachineKind("c7", "spot", 2.0)
PRICES = PriceTable(
    date(2026, 1, 1), {"p5": Machine(name="p5", cpus=192, memory_gb=2048, on_demand_usd=98.0, spot_usd=36.0)}, {}
)


class World:
    """A clock and the machines that are there."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self.machines = [GPU]
        self.away = False

    def clock(self) -> int:
        return self.now_ms

    def kinds(self) -> list[MachineKind]:
        if self.away:
            raise ConnectionError("no GCS")
        return self.machines

    def after(self, seconds: float) -> None:
        self.now_ms += round(1000 * seconds)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "costs"))


def meter(world: World, folder: Location) -> CostMeter:
    return CostMeter(folder, world.kinds, now_ms=world.clock)


def test_a_driver_that_dies_loses_what_it_had_not_written_and_its_successor_goes_on(
    world: World, folder: Location
) -> None:
    first = meter(world, folder)
    first.sample()
    world.after(100)
    first.sample()
    first.write()
    world.after(4)
    first.sample()  # and then it is killed
    world.after(3600)
    second = meter(world, folder)
    assert second.spent().node_seconds == {GPU: 100.0}
    second.sample()
    world.after(50)
    second.sample()
    second.write()
    second.write()
    assert second.spent().usd == pytest.approx(1.5)
    assert meter(world, folder).spent().seconds == 150.0


def test_a_look_that_fails_is_made_up_for_by_the_next(world: World, folder: Location) -> None:
    one = meter(world, folder)
    one.sample()
    world.after(5)
    world.away = True
    one.sample()
    world.after(5)
    world.away = False
    one.sample()
    assert one.spent().node_seconds == {GPU: 10.0}


def test_metering_writes_down_the_end_too(world: World, folder: Location) -> None:
    one = meter(world, folder)
    with metering(one, log=print, every_s=600):
        world.after(7)
        world.machines = [GPU, CPU]
    assert meter(world, folder).spent().node_seconds == {GPU: 7.0}
    assert one.present == (GPU, CPU)


def test_the_end_is_charged_though_nobody_can_look(world: World, folder: Location) -> None:
    one = meter(world, folder)
    with metering(one, log=print, every_s=600):
        world.after(7)
        world.away = True
    assert meter(world, folder).spent().node_seconds == {GPU: 7.0}


def test_a_store_that_takes_nothing_is_told_once_and_tried_again(world: World, tmp_path: Path) -> None:
    """The store refuses three times, takes the fourth, and the run never hears of it but in a message."""
    storage, tries, taken = HookedStorage(tmp_path / "bucket"), [0], threading.Event()

    def refuse(_: str) -> None:
        tries[0] += 1
        if tries[0] <= 3:
            raise PermissionError("not now")
        taken.set()

    storage.on_write = refuse
    said: list[str] = []
    one = meter(world, storage.location("bucket/costs"))
    with metering(one, said.append, every_s=0.01):
        world.after(7)
        assert taken.wait(60)
    assert len(said) == 1
    assert said[0].startswith("warning: the cost record cannot be written now: ")
    assert meter(world, storage.location("bucket/costs")).spent().node_seconds == {GPU: 7.0}


@pytest.mark.parametrize(
    ("labels", "owned", "kind"),
    [
        ({MACHINE_LABEL: "p5", MARKET_LABEL: "spot"}, False, GPU),
        ({MACHINE_LABEL: "p5", MARKET_LABEL: "on-demand"}, False, MachineKind("p5", "on-demand", 98.0)),
        ({MACHINE_LABEL: "p5", MARKET_LABEL: "owned"}, False, MachineKind("p5", "owned", 98.0)),
        ({MACHINE_LABEL: "mine", MARKET_LABEL: "owned"}, False, MachineKind("mine", "owned", 0.0)),
        ({MACHINE_LABEL: "x", MARKET_LABEL: "spot"}, False, MachineKind("x", "spot", None)),
        ({MACHINE_LABEL: "p5", MARKET_LABEL: "stolen"}, False, MachineKind("p5", None, None)),
        ({MACHINE_LABEL: "p5"}, False, MachineKind("p5", None, None)),
        ({}, False, MachineKind(None, None, None)),
        (None, True, MachineKind(None, "owned", 0.0)),
    ],
)
def test_a_node_says_with_its_labels_what_it_costs(
    labels: dict[str, str] | None, owned: bool, kind: MachineKind
) -> None:
    nodes = [{"Alive": True, "Labels": labels}, {"Alive": False, "Labels": {MACHINE_LABEL: "gone"}}]
    assert machine_kinds(nodes, PRICES, owned) == [kind]


def test_without_a_table_only_owned_machines_have_a_price() -> None:
    nodes = [{"Alive": True, "Labels": {MACHINE_LABEL: "p5", MARKET_LABEL: market}} for market in ("spot", "owned")]
    assert [kind.usd_per_hour for kind in machine_kinds(nodes, None)] == [None, 0.0]
