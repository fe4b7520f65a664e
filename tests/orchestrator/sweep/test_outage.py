from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.sweep.trial import MAX_RETRIES, RETRY_INTERVAL_S, retry_while_mlflow_is_down
from orchestrator.track.client import TrackingError, TrackingUnavailableError


def away_for(attempts: int) -> Callable[[], str]:
    left = [attempts]

    def attempt() -> str:
        if left[0]:
            left[0] -= 1
            raise TrackingUnavailableError("http://mlflow: MLflow cannot be reached.")
        return "there"

    return attempt


def test_a_trial_waits_until_mlflow_is_back() -> None:
    told: list[str] = []
    pauses: list[float] = []
    assert retry_while_mlflow_is_down(away_for(3), told.append, pauses.append) == "there"
    assert pauses == [RETRY_INTERVAL_S] * 3
    assert told == ["http://mlflow: MLflow cannot be reached. Trying again in 20 s."] * 3


def test_patience_ends() -> None:
    pauses: list[float] = []
    with pytest.raises(TrackingUnavailableError):
        retry_while_mlflow_is_down(away_for(1000), lambda _: None, pauses.append)
    assert len(pauses) == MAX_RETRIES


def test_what_will_not_pass_is_not_waited_for() -> None:
    def refused() -> str:
        raise TrackingError("MLflow has no run 7.")

    with pytest.raises(TrackingError, match="no run 7"):
        retry_while_mlflow_is_down(refused, lambda _: None, lambda _: pytest.fail("waited"))
