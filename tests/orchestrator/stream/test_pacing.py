"""Ray Data knows the pause, and makes it after every turn of its loop."""

import pytest
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from orchestrator.stream import ray_dataset
from orchestrator.stream.ray_dataset import PAUSE_S, Pacing


def test_ray_data_takes_it_for_one_of_its_callbacks() -> None:
    context = DataContext()
    context.custom_execution_callback_classes = [Pacing]
    assert Pacing in context.execution_callback_classes
    assert "on_execution_step" in vars(ExecutionCallback)


def test_a_turn_is_followed_by_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(ray_dataset.time, "sleep", slept.append)
    Pacing().on_execution_step(None)  # type: ignore[arg-type]
    assert slept == [PAUSE_S]
