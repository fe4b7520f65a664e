"""The learning rate over a run."""

from pathlib import Path

import pytest
import torch
from shards import write_shards
from streams import make_reader, read_batches
from toy_workload import ToyConfig, ToyWorkload

from orchestrator.config.recipe import Recipe, ScheduleSection
from orchestrator.train.parallel.base import current_collective
from orchestrator.train.parallel.data_parallel import Replicated
from orchestrator.train.step import Progress, Stepper, learning_rate
from workloads.contract import KeyedRandom

OFFICIAL = ScheduleSection(by="epoch", warmup_steps=2000, warmup_plateau=100, warmup_from=1e-5, final=1e-5)
"""ALBEF's pre-training, configs/Pretrain.yaml; its peak is 1e-4."""


def by_step(schedule: ScheduleSection, peak: float, step: int, steps: int) -> float:
    return learning_rate(schedule, peak, Progress(step, steps, whole_epochs=0, epochs=1))


def official(step: int, epoch: int = 0, epochs: float = 30) -> float:
    return learning_rate(OFFICIAL, 1e-4, Progress(step, 300_000, epoch, epochs))


def test_warm_up_then_half_a_cosine() -> None:
    schedule = ScheduleSection(warmup_steps=10, warmup_from=1e-5, final=1e-6)
    rates = [by_step(schedule, 1e-4, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[5] == pytest.approx(5.5e-5)
    assert rates[10] == pytest.approx(1e-4)
    assert rates[60] == pytest.approx((1e-4 + 1e-6) / 2)
    assert rates[110] == pytest.approx(1e-6)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_warm_up_then_a_straight_line() -> None:
    schedule = ScheduleSection(kind="linear", warmup_steps=600, warmup_from=0, final=0)
    rates = [by_step(schedule, 8e-5, step, 6000) for step in (0, 300, 600, 3300, 6000)]
    assert rates == pytest.approx([0, 4e-5, 8e-5, 4e-5, 0])


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_constant(by: str, epoch: int) -> None:
    schedule = ScheduleSection.model_validate({"kind": "constant", "by": by})
    assert learning_rate(schedule, 3e-4, Progress(77, 100, epoch, 4)) == 3e-4


@pytest.mark.parametrize(("epoch", "rate"), [(0, 1e-4), (1, 9.975e-5), (15, 5.5e-5), (29, 1.0247e-5)])
def test_rates_of_the_official_epochs(epoch: int, rate: float) -> None:
    assert official(10_000 * (epoch + 1) - 1, epoch) == pytest.approx(rate, rel=1e-4)
    assert official(10_000 * epoch + 2000, epoch) == pytest.approx(rate, rel=1e-4)


def test_the_official_warm_up_has_twenty_plateaus_below_the_peak() -> None:
    rates = [official(step) for step in range(2500)]
    assert sorted(set(rates)) == pytest.approx([1e-5 + plateau * 4.5e-6 for plateau in range(21)])
    assert len(set(rates[300:400])) == 1
    assert rates[399] < rates[400]
    assert rates[1999] < rates[2000] == 1e-4


def test_a_warm_up_by_epoch_ends_with_the_first_epoch() -> None:
    assert official(1000, epoch=0) == pytest.approx(5.5e-5)
    assert official(1000, epoch=1) == pytest.approx(9.975e-5, rel=1e-4)


def test_a_line_by_epoch() -> None:
    schedule = ScheduleSection(kind="linear", by="epoch", final=0)
    rates = [learning_rate(schedule, 1e-4, Progress(10 * epoch, 40, epoch, 4)) for epoch in range(4)]
    assert rates == pytest.approx([1e-4, 7.5e-5, 5e-5, 2.5e-5])


@pytest.mark.parametrize(
    ("length", "epochs"), [({"epochs": 2.5}, 2.5), ({"steps": 30}, 2.4)], ids=["by epochs", "by steps"]
)
def test_progress_of_a_run(length: dict[str, float], epochs: float) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "run",
            "workload": "albef",
            "data": {"train": "shards"},
            "batch": {"micro_batches": 2, "micro_batch_size": 4},
            "length": length,
        }
    )
    at = [Progress.of(recipe, step, steps=30, epoch_samples=100) for step in (0, 12, 13, 25)]
    assert [progress.whole_epochs for progress in at] == [0, 0, 1, 2]
    assert {(progress.steps, progress.epochs) for progress in at} == {(30, epochs)}


def test_every_step_sets_the_rate_of_its_epoch(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "toy",
            "workload": "toy",
            "data": {"train": "shards"},
            "batch": {"micro_batches": 1, "micro_batch_size": 4},
            "length": {"steps": 5},
            "schedule": {"kind": "linear", "by": "epoch", "final": 0.0},
            "optimizer": {"learning_rate": 0.1},
        }
    )
    reader = make_reader(write_shards(str(tmp_path), 8), size=4, total=20)
    workload, collective = ToyWorkload(ToyConfig()), current_collective(torch.device("cpu"))
    model = workload.build(torch.device("cpu"), KeyedRandom((1,)))
    parallel = Replicated(list(model.parameters()), collective)
    stepper = Stepper(recipe, workload, parallel, collective, 5, 8, torch.device("cpu"))
    outcomes = [stepper.run(step, read_batches(reader, [step])) for step in range(5)]
    rates = [outcome.metrics["learning_rate"] for outcome in outcomes]
    assert rates == pytest.approx([0.1, 0.1, 0.06, 0.06, 0.02])
    assert stepper.optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
