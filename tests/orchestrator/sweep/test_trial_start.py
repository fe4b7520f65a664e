"""The run that a trial starts or continues, and retries of the start while MLflow is down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.storage.location import Location, locate
from orchestrator.storage.run_folder import MANIFEST_FILE
from orchestrator.sweep.folder import SweepError
from orchestrator.sweep.trial import MAX_RETRIES, RETRY_INTERVAL_S, Lineage, resolve_lineage, retry_while_mlflow_is_down
from orchestrator.track.mlflow_errors import TrackingError, TrackingUnavailableError

ALPHA = {"distillation.alpha": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    """Return a sweep's folder in which trial 1 saved after 10, 20 and 30 steps, the last one not to its end."""
    for step in (10, 20, 30):
        checkpoint = tmp_path / "trial-0001-0" / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / (MANIFEST_FILE if step < 30 else "part")).write_text("{}")
    return locate(str(tmp_path))


def test_a_trial_goes_on_with_its_own_runs(folder: Location) -> None:
    for run in ("trial-0000-0", "trial-0000-0-from-abcd"):
        own = Lineage(run, 320, {"checkpoint": "c"})
        assert resolve_lineage("trial-0000-0", own, folder, 16, ALPHA) == own


@pytest.mark.parametrize(("samples", "step"), [(160, 10), (319, 10), (320, 20), (480, 20)])
def test_another_ones_run_goes_on_under_a_name_of_its_own(folder: Location, samples: int, step: int) -> None:
    found = resolve_lineage("trial-0000-0", Lineage("trial-0001-0", samples), folder, 16, ALPHA)
    assert found.run.startswith("trial-0000-0-from-")
    assert found.samples == step * 16
    checkpoint = (folder / "trial-0001-0" / "checkpoints" / f"step-{step:08d}").uri
    assert found.start == {"checkpoint": checkpoint, "take": "everything"}


def test_the_name_follows_from_where_it_starts_and_with_which_values(folder: Location) -> None:
    def name(samples: int, alpha: float) -> str:
        donor = Lineage("trial-0001-0", samples)
        return resolve_lineage("trial-0000-0", donor, folder, 16, {"distillation.alpha": alpha}).run

    assert name(160, 0.5) == name(200, 0.5)
    assert len({name(160, 0.5), name(320, 0.5), name(160, 0.6)}) == 3


def test_there_may_be_nothing_to_take_over(folder: Location) -> None:
    with pytest.raises(SweepError, match=r"trial-0000-0: trial-0001-0 has no checkpoint up to step 9"):
        resolve_lineage("trial-0000-0", Lineage("trial-0001-0", 159), folder, 16, ALPHA)


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
