from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ray.tune.search import Searcher

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.folder import Point, SweepFolder, TrialRecord
from orchestrator.sweep.sampler import configuration_count
from orchestrator.sweep.schedulers import TRIAL_SPEC
from orchestrator.sweep.sweep_logger import TrialRecords
from orchestrator.sweep.tune import SweepSearch, observed_trials

Make = Callable[..., ResolvedSweep]


def ended(number: int, *values: float, status: str = "FINISHED", replica: int = 0, alpha: float = 0.1) -> TrialRecord:
    points = tuple(Point(80 * (place + 1), (value,)) for place, value in enumerate(values))
    assignment = {"distillation.alpha": alpha}
    return TrialRecord(number=number, replica=replica, assignment=assignment, status=status, points=points)  # type: ignore[arg-type]


def test_every_configuration_is_given_once_per_replica_and_then_no_more(make: Make, trials: TrialRecords) -> None:
    search = SweepSearch(make("replicas=2"), trials)
    found = [search.suggest(f"t{number}")[TRIAL_SPEC] for number in range(6)]
    assert search.suggest("t6") == Searcher.FINISHED
    assert [(one["number"], one["replica"]) for one in found[:6]] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert found[0]["assignment"] == found[1]["assignment"] != found[2]["assignment"]
    assert [one["lineage"]["run"] for one in found[:2]] == ["trial-0000-0", "trial-0000-1"]


def test_a_grid_ends_by_itself_or_after_so_many_trials(make: Make) -> None:
    assert configuration_count(make("search.method=grid", "search.trials=null", "search.grid_points=5")) == 5
    assert configuration_count(make("search.method=grid", "search.trials=3", "search.grid_points=5")) == 3
    assert configuration_count(make("search.method=grid", "search.trials=30", "search.grid_points=5")) == 5


def test_what_was_under_way_goes_on_before_anything_new_starts(make: Make, folder: SweepFolder) -> None:
    first = SweepSearch(make(), TrialRecords(folder))
    first.next()
    lost = first.next()
    assert lost is not None
    folder.write_trial(replace(TrialRecords(folder).by_name["trial-0000-0"], status="FINISHED"))
    run, start = "trial-0001-0-from-ab", {"checkpoint": "c"}
    record = replace(TrialRecords(folder).by_name["trial-0001-0"], points=(Point(80, (0.5,)),), run=run, start=start)
    folder.write_trial(record)

    search = SweepSearch(make(), TrialRecords(folder))
    again = search.suggest("c")[TRIAL_SPEC]
    assert (again["number"], again["assignment"]) == (1, lost["assignment"])
    assert again["lineage"] == {"run": run, "samples": 80, "start": start}
    assert search.suggest("d")[TRIAL_SPEC]["number"] == 2
    assert search.suggest("e") == Searcher.FINISHED


def test_trials_report_again_to_a_scheduler_that_cannot_be_told(make: Make, folder: SweepFolder) -> None:
    folder.write_trial(replace(ended(0, 0.5, 0.4), status="PAUSED"))
    assert SweepSearch(make(), TrialRecords(folder), replay=True).suggest("a")[TRIAL_SPEC]["lineage"]["samples"] == 0
    assert SweepSearch(make(), TrialRecords(folder)).suggest("a")[TRIAL_SPEC]["lineage"]["samples"] == 160


def test_nothing_starts_any_more_once_the_sweep_ends(make: Make, trials: TrialRecords) -> None:
    over: list[bool] = []
    search = SweepSearch(make(), trials, ended=lambda: bool(over))
    search.suggest("a")
    over.append(True)
    assert search.suggest("b") == Searcher.FINISHED
    assert list(trials.by_name) == ["trial-0000-0"]


def test_the_estimator_proposes_the_same_from_the_same_record(make: Make, folder: SweepFolder) -> None:
    sweep = make("search.method=tpe", "search.trials=20")

    def run(first: int, last: int) -> list[float]:
        trials, alphas = TrialRecords(folder), []
        search = SweepSearch(sweep, trials)
        for number in range(first, last):
            alpha = search.suggest(f"t{number}")[TRIAL_SPEC]["assignment"]["distillation.alpha"]
            trials.update(ended(number, (alpha - 0.3) ** 2, alpha=alpha))
            alphas.append(alpha)
        return alphas

    whole = run(0, 16)
    for number in range(12, 16):
        folder.trials()
        (folder.root / "trials" / f"trial-{number:04d}-0.json").delete()
    assert run(12, 16) == whole[12:]


def test_what_is_told_is_the_mean_of_replicas_that_ended_well() -> None:
    found = observed_trials(
        [
            ended(0, 9.0, 1.0, replica=0),
            ended(0, 9.0, 2.0, replica=1),
            ended(1, 9.0, 5.0, replica=0),
            ended(1, 7.0, replica=1, status="STOPPED"),
            ended(2, 3.0, status="FAILED"),
            ended(3, status="RUNNING"),
        ]
    )
    assert [one.values for one in found] == [(1.5,), (6.0,), (), ()]
    assert [one.stopped_at for one in found] == [None, 80, None, None]
