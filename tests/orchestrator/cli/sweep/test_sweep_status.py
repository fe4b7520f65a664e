"""How a sweep stands, from a folder as the sweep's driver leaves it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from orchestrator.cli.sweep.status import SweepReader, SweepView, command, sweep_table, watch
from orchestrator.config.sweep import load_sweep
from orchestrator.storage.location import locate
from orchestrator.sweep.folder import Point, SweepError, SweepFile, SweepFolder, TrialRecord, TrialStatus, store_sweep
from orchestrator.track.cost import MachineKind, RunCost, StartUsage, UsagePeriod, write_start

RECIPE = """\
workload: albef
data: {train: shards, held_out: held}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 60}
model: {preset: tiny}
"""
SWEEP = """\
recipe: mine.yaml
objectives: [{metric: held_out/text_to_image/recall@10, mode: max}]
search: {method: random, trials: 8}
space: {distillation.alpha: 'uniform(0, 0.8)', adversarial.steps: [0, 2]}
budget: {usd: 10}
"""
FILE = SweepFile(
    name="alpha", created="2026-11-01T10:00:00+00:00", status="RUNNING", tracking_uri="x", mlflow_run_id="1",
    trials=8, samples=960,
)  # fmt: skip
NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
HOUR_MS = 3_600_000
REASON = "step 12: loss nan, gradient_norm nan. Lower optimizer.learning_rate."


def trial(number: int, status: TrialStatus, *values: float, samples: int = 960, **others: str) -> TrialRecord:
    points = tuple(Point(samples * (1 + place) // len(values), (value,)) for place, value in enumerate(values))
    assignment = {"distillation.alpha": number / 8, "adversarial.steps": 2 * (number % 2)}
    return TrialRecord(
        number=number, replica=0, assignment=assignment, status=status, points=points,
        started="2026-11-01T11:00:00+00:00", **others,
    )  # fmt: skip


TRIALS = (
    trial(0, "FINISHED", 0.2, 0.3, ended="2026-11-01T11:30:00+00:00"),
    trial(1, "FINISHED", 0.2, 0.4, ended="2026-11-01T11:45:00+00:00"),
    trial(2, "STOPPED", 0.1, samples=96, ended="2026-11-01T11:05:00+00:00", reason="stopped early by the scheduler"),
    trial(3, "FAILED", 0.9, samples=96, ended="2026-11-01T11:05:00+00:00", reason=REASON),
    trial(4, "RUNNING", 0.15, samples=480),
    trial(5, "RUNNING"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(RECIPE)
    Path("alpha.yaml").write_text(SWEEP)
    folder = SweepFolder(locate("runs/alpha"))
    store_sweep(folder, load_sweep(Path("alpha.yaml")))
    folder.write(FILE)
    for one in TRIALS:
        folder.write_trial(one)
    return folder


def pay(folder: SweepFolder, run: str, hours: float) -> None:
    end = int(hours * HOUR_MS)
    write_start(
        folder.run(run).costs, StartUsage(0, end, 0.5, (UsagePeriod(0, end, {MachineKind("g6", "spot", 2.0): 1}),))
    )


def pay_for_all(folder: SweepFolder, hours: float) -> None:
    end = int(hours * HOUR_MS)
    write_start(folder.costs, StartUsage(0, end, 1.0, (UsagePeriod(0, end, {MachineKind("g6", "spot", 2.0): 1}),)))


def shown(view: SweepView, width: int = 160, height: int | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    with console.capture() as text:
        console.print(sweep_table(view, width, height))
    return [line.rstrip() for line in text.get().splitlines()]


def many(view: SweepView, count: int = 200) -> SweepView:
    kinds: tuple[TrialStatus, ...] = ("FINISHED", "STOPPED", "FAILED", "RUNNING")
    trials = (trial(number, kinds[number % 4], number / count, reason=REASON) for number in range(count))
    return replace(view, trials=tuple(trials), file=replace(view.file, trials=count))


def test_a_headline_and_the_best_and_the_running_first(folder: SweepFolder) -> None:
    pay(folder, "trial-0001-0", 3.0)
    pay_for_all(folder, 2.0)
    lines = shown(SweepReader(folder).read(NOW))
    assert lines[0] == "sweep alpha: RUNNING; 4 of 8 trials are over, 2 running, 2 finished, 1 stopped, 1 failed"
    assert lines[1] == "elapsed 2:00:00; cost $4.00; budget $10"
    assert lines[2].startswith("best so far: 1 with held_out/text_to_image/recall@10 0.4 (")
    heading = ["trial", "status", "alpha", "steps", "samples", "of", "all", "recall@10", "elapsed", "cost"]
    assert lines[4].split() == heading
    rows = [line.split() for line in lines[5:11]]
    assert rows[0] == ["best", "1", "finished", "0.125", "2", "960", "100%", "0.4", "0:45:00", "$3.00"]
    assert rows[1] == ["4", "running", "0.5", "0", "480", "50%", "0.15", "1:00:00"]
    assert [row[0] for row in rows[1:]] == ["4", "5", "0", "2", "3"]
    assert lines[11] == f"trial 3 failed: {REASON}"


def test_a_trial_pays_for_every_run_that_it_had(folder: SweepFolder) -> None:
    for run in ("trial-0004-0", "trial-0004-0-from-abcd", "trial-0005-0"):
        pay(folder, run, 1.0)
    spent = SweepReader(folder).read(NOW).spent
    assert {name: one.usd for name, one in spent.items()} == {"trial-0004-0": 2.0, "trial-0005-0": 1.0}


def test_what_a_trial_that_is_over_has_cost_is_read_once(folder: SweepFolder) -> None:
    pay(folder, "trial-0001-0", 3.0)
    pay(folder, "trial-0004-0", 1.0)
    reader = SweepReader(folder)
    reader.read(NOW)
    for run in ("trial-0001-0", "trial-0004-0"):
        pay(folder, run, 5.0)
    assert {name: one.usd for name, one in reader.read(NOW).spent.items()} == {"trial-0001-0": 3.0, "trial-0004-0": 5.0}


def test_a_damaged_record_of_costs_leaves_the_rest_readable(folder: SweepFolder) -> None:
    pay(folder, "trial-0001-0", 3.0)
    (folder.run("trial-0000-0").costs / "start-0.json").write(b"{")
    assert list(SweepReader(folder).read(NOW).spent) == ["trial-0001-0"]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_a_table_fits_the_terminal(folder: SweepFolder, width: int) -> None:
    lines = shown(SweepReader(folder).read(NOW), width)
    assert max(map(len, lines)) <= width
    assert any("trial  status" in line and "recall@10" in line for line in lines)


@pytest.mark.parametrize("width", [60, 160])
def test_two_hundred_trials_fit_into_a_terminal_of_24_lines(folder: SweepFolder, width: int) -> None:
    view = many(SweepReader(folder).read(NOW))
    lines = shown(view, width, 24)
    assert len(lines) <= 24
    assert [line.split()[1] for line in lines if line.startswith("best  ")] == ["196"]
    assert sum("running" in line.split()[:2] for line in lines) > 10
    assert any(line.startswith("and 1") and "more: " in line for line in lines)
    assert len(shown(view, width)) > 200


def test_several_objectives_mark_the_front(folder: SweepFolder) -> None:
    view = SweepReader(folder).read(NOW)
    both = view.sweep.model_copy(update={"objectives": (*view.sweep.objectives, view.sweep.objectives[0].model_copy(
        update={"metric": "loss", "mode": "min"})), "replicas": 2})  # fmt: skip
    pairs = ((0.3, 1.0), (0.4, 2.0), (0.2, 1.5))
    trials = tuple(replace(trial(number, "FINISHED"), points=(Point(960, pair),)) for number, pair in enumerate(pairs))
    lines = shown(replace(view, sweep=both, trials=trials))
    assert [line.split()[1] for line in lines if line.startswith("best  ")] == ["1", "0"]
    assert "best so far: 0 with held_out/text_to_image/recall@10 0.3, loss 1" in lines[2]


def test_nothing_has_started_yet(folder: SweepFolder) -> None:
    lines = shown(replace(SweepReader(folder).read(NOW), trials=()))
    assert lines == ["sweep alpha: RUNNING; 0 of 8 trials are over", "elapsed 2:00:00; cost $0.00; budget $10"]


def test_text_of_strangers_cannot_command_the_terminal(folder: SweepFolder) -> None:
    bad = trial(0, "FAILED", reason="\x1b[2Jgone [bold]x")
    lines = shown(replace(SweepReader(folder).read(NOW), trials=(bad,)))
    assert lines[-1] == "trial 0 failed: \\x1b[2Jgone [bold]x"


def test_the_command_prints_once_where_there_is_no_terminal(folder: SweepFolder) -> None:
    for options in ([], ["--watch"]):
        done = CliRunner().invoke(command, ["alpha", *options])
        assert done.exit_code == 0, done.output
        assert "sweep alpha: RUNNING" in done.output


def test_the_command_speaks_json(folder: SweepFolder) -> None:
    pay(folder, "trial-0001-0", 3.0)
    pay_for_all(folder, 2.0)
    found = json.loads(CliRunner().invoke(command, ["alpha", "--json"]).output)
    assert (found["status"], found["best"], found["usd"], found["trials_in_all"]) == ("RUNNING", [1], 4.0, 8)
    assert [one["usd"] for one in found["trials"]] == [None, 3.0, None, None, None, None]
    assert found["trials"][3]["reason"] == REASON


def test_a_sweep_that_is_not_there(folder: SweepFolder) -> None:
    error = CliRunner().invoke(command, ["beta"]).exception
    assert isinstance(error, SweepError)
    assert "no sweep 'beta' below runs" in str(error)


def terminal() -> Console:
    return Console(force_terminal=True, width=80, height=24, file=io.StringIO(), highlight=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_watching_ends_with_the_sweep_and_survives_a_look_that_fails(folder: SweepFolder) -> None:
    view, console = SweepReader(folder).read(NOW), terminal()
    looks: Iterator[SweepView | SweepError] = iter(
        [view, SweepError("away"), replace(view, file=replace(FILE, status="FINISHED"), total=RunCost(5400.0))]
    )

    def read() -> SweepView:
        found = next(looks)
        if isinstance(found, SweepError):
            raise found
        return found

    waits: list[None] = []
    watch(read, console, lambda: waits.append(None))
    assert len(waits) == 2
    assert "sweep alpha: FINISHED" in written(console)
    assert "elapsed 1:30:00" in written(console)


def test_ctrl_c_leaves_watching_quietly(folder: SweepFolder) -> None:
    view, console = SweepReader(folder).read(NOW), terminal()

    def interrupt() -> None:
        raise KeyboardInterrupt

    watch(lambda: view, console, interrupt)
    assert "sweep alpha: RUNNING" in written(console)
