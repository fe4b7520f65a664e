"""`fuseray trace` as a user meets it, on a run's folder without Ray."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from runs import write_ledger, write_quarantine, write_run
from shards import write_shards

from orchestrator.cli.inspect import trace_command
from orchestrator.config.errors import ConfigError
from orchestrator.storage.run_folder import RunError
from orchestrator.stream.micro_batch import MicroBatch, SkippedSample
from orchestrator.train.plan import Plan

LOSSES = [3.0 - 0.01 * step + (0.02 if step % 3 else 0.0) for step in range(25)]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run of 29 steps that has done 25, with a spike at step 20 and a bad sample in step 5."""
    folder = tmp_path_factory.mktemp("work")
    data = write_shards(str(folder / "data"), 150, per_shard=50)
    losses = [*LOSSES[:20], 9.0, *LOSSES[21:]]
    rates = [1e-3] * len(losses)
    plan = write_run(
        folder, f"data.train={data}", curves={"loss": losses, "learning_rate": rates, "seconds/step": rates}
    )
    key = plan.reader.keys(10)[1]
    write_quarantine(plan, SkippedSample(81, f"{data}/shard-000000.tar", key, "image is corrupt", "no \x1b[31mimage"))
    return plan


def trace(plan: Plan, *arguments: str) -> Result:
    return CliRunner().invoke(trace_command, [plan.run.root.uri, *arguments])


def test_a_step_is_listed_with_its_figures_and_skipped_samples(plan: Plan) -> None:
    done = trace(plan, "--step", "5")
    assert done.exit_code == 0, done.output
    assert f"step 5 of {plan.run.root.uri}, which has 29 steps" in done.output
    assert "learning_rate 0.001  loss 2.97" in done.output
    assert "seconds/step" not in done.output
    assert "micro-batch 10: 8 samples, 1 skipped; the run keeps no ledger" in done.output
    for key in [*plan.reader.keys(10), *plan.reader.keys(11)]:
        assert f"  {key}  (shard-00000{int(key[1:]) // 50}.tar row {int(key[1:]) % 50}, epoch 0)" in done.output
    assert "skipped: image is corrupt: no \\x1b[31mimage" in done.output
    assert "\x1b" not in done.output


def test_a_micro_batch_for_scripts(plan: Plan) -> None:
    found = json.loads(trace(plan, "--step", "20", "--micro-batch", "1", "--json").stdout)
    assert (found["step"], found["steps"], found["metrics"]["loss"]) == (20, 29, 9.0)
    (batch,) = found["micro_batches"]
    assert (batch["number"], batch["place"], batch["ledger"]) == (41, 1, "nothing")
    assert [sample["key"] for sample in batch["samples"]] == plan.reader.keys(41)
    first = batch["samples"][0]
    assert first["shard"].startswith(f"{first['data_set']}/shard-")
    assert (first["epoch"], first["position"], first["skipped"], first["fault"]) == (2, 328, None, None)
    assert first["captions"] == [f"picture number {int(first['key'][1:])} of a patch"]


def test_a_step_that_was_not_done_yet_has_no_figures(plan: Plan) -> None:
    done = trace(plan, "--step", "26")
    assert done.exit_code == 0, done.output
    assert "The run has not reported this step." in done.output
    assert plan.reader.keys(52)[0] in done.output


def test_without_mlflow_the_samples_are_still_known(plan: Plan, tmp_path: Path) -> None:
    other = write_run(tmp_path, f"data.train={plan.data.sets[0].folder.uri}")
    (tmp_path / "file").write_text("")
    other.run.write(replace(other.run.read(), tracking_uri=f"sqlite:///{tmp_path}/file/mlflow.db"))
    done = trace(other, "--step", "0")
    assert done.exit_code == 0, done.output
    assert "there is no such MLflow store" in done.output
    assert other.reader.keys(0)[0] in done.output


def test_a_contact_sheet_shows_the_samples(plan: Plan, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    done = trace(plan, "--step", "5", "--images", str(sheet))
    assert f"The contact sheet is {sheet}, with 16 images." in done.output
    with Image.open(sheet) as image:
        assert (image.format, image.width) == ("PNG", 16 + 5 * 240)
    found = json.loads(trace(plan, "--step", "5", "--micro-batch", "0", "--images", str(sheet), "--json").stdout)
    assert (found["contact_sheet"], found["images"]) == (str(sheet), 8)


def test_a_contact_sheet_has_its_limit(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cli.inspect.MAX_TILES", 6)
    done = trace(plan, "--step", "5", "--images", str(tmp_path / "sheet.png"))
    assert "with 6 images." in done.output


def test_without_samples_there_is_no_contact_sheet(plan: Plan, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    done = trace(plan, "--step", "28", "--micro-batch", "1", "--images", str(sheet))
    assert isinstance(done.exception, ConfigError)
    assert "there are no samples" in str(done.exception)
    assert not sheet.exists()


def test_spikes_lead_to_steps(plan: Plan) -> None:
    done = trace(plan, "--spikes")
    assert done.exit_code == 0, done.output
    assert "step 20: 9 where 2.8" in done.output
    assert f"micro-batch 40: {', '.join(plan.reader.keys(40)[:3])} and 5 more" in done.output
    assert f"fuseray trace {plan.run.root.uri} --step 20" in done.output
    (spike,) = json.loads(trace(plan, "--spikes", "--top", "3", "--json").stdout)["spikes"]
    assert (spike["step"], spike["value"]) == (20, 9.0)
    assert [batch["number"] for batch in spike["micro_batches"]] == [40, 41]
    assert "never jumped" in trace(plan, "--spikes", "--metric", "learning_rate").output


def test_values_that_are_not_finite_are_valid_json(plan: Plan, tmp_path: Path) -> None:
    data = f"data.train={plan.data.sets[0].folder.uri}"
    other = write_run(tmp_path, data, curves={"loss": [1.0, float("nan"), 1.0]})
    (spike,) = json.loads(trace(other, "--spikes", "--json").stdout, parse_constant=pytest.fail)["spikes"]
    assert (spike["step"], spike["value"], spike["score"]) == (1, "nan", "inf")
    found = json.loads(trace(other, "--step", "1", "--json").stdout, parse_constant=pytest.fail)
    assert found["metrics"] == {"loss": "nan"}


def test_the_ledger_is_compared(plan: Plan, tmp_path: Path) -> None:
    kept = write_run(tmp_path, f"data.train={plan.data.sets[0].folder.uri}", "stream.audit=true")
    keys = [tuple(kept.reader.keys(number)) for number in (0, 1, 2)]
    write_ledger(kept, 0, [MicroBatch(number, keys[number], {}, (), 0) for number in (0, 1)])
    write_ledger(kept, 1, [MicroBatch(2, keys[2][1:], {}, (), 0)])
    right = trace(kept, "--step", "0")
    assert (right.exit_code, right.output.count("the ledger agrees")) == (0, 2)
    wrong = trace(kept, "--step", "1")
    assert wrong.exit_code == 1
    assert "micro-batch 2: 8 samples, 0 skipped; the ledger has other samples" in wrong.output
    assert "micro-batch 3: 8 samples, 0 skipped; the ledger has no line for it" in wrong.output
    assert re.search(r"`fuseray audit \S*/runs/mine` checks the whole run", wrong.output)
    states = json.loads(trace(kept, "--step", "1", "--json").stdout)["micro_batches"]
    assert [state["ledger"] for state in states] == ["differs", "missing"]


def test_a_mixture_says_which_data_set(tmp_path: Path) -> None:
    folders = [write_shards(str(tmp_path / name), 20) for name in ("one", "two")]
    plan = write_run(tmp_path, f"data.mix=[{{uri: {folders[0]}}}, {{uri: {folders[1]}}}]")
    done = trace(plan, "--step", "0")
    assert f"data set 1: {folders[1]}" in done.output
    assert "(data set 0, shard-000000.tar row" in done.output
    assert "(data set 1, shard-000000.tar row" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "29"], r"has no step 29; its 29 steps are 0 to 28"),
        (["--step", "3", "--micro-batch", "2"], r"has no micro-batch 2 in a step; its 2 are 0 to 1"),
        (["--spikes", "--metric", "los"], r"no metric 'los'; did you mean 'loss'\?"),
        (["--spikes", "--metric", "qqq"], r"no metric 'qqq'; it has learning_rate, loss, seconds/step"),
    ],
)
def test_what_the_run_does_not_have_is_named(plan: Plan, arguments: list[str], message: str) -> None:
    done = trace(plan, *arguments)
    assert isinstance(done.exception, RunError | ConfigError)
    with pytest.raises(type(done.exception), match=message):
        raise done.exception


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a step with --step, or ask"),
        (["--step", "1", "--spikes"], "name a step with --step, or ask"),
        (["--step", "1", "--top", "3"], "--metric and --top belong to --spikes"),
        (["--spikes", "--micro-batch", "1"], "name it with --step"),
        (["--step", "-1"], "x>=0"),
        (["--step", "soon"], "not a valid integer"),
    ],
)
def test_wrong_usage_is_explained(plan: Plan, arguments: list[str], message: str) -> None:
    done = trace(plan, *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(trace_command, [str(tmp_path), "--step", "1"])
    assert "no run" in str(done.exception)


def test_changed_data_is_refused(tmp_path: Path) -> None:
    plan = write_run(tmp_path, f"data.train={write_shards(str(tmp_path / 'data'), 30)}")
    write_shards(str(tmp_path / "data"), 31)
    done = trace(plan, "--step", "0")
    assert isinstance(done.exception, RunError)
    assert "changed since the run" in str(done.exception)
