"""`fuseray checkpoints`, as a user meets it."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from saving import save_by

from orchestrator.cli.main import cli
from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.train.checkpoints.load import load_newest

RECIPE = "checkpoint: {keep: 2, keep_best: 1, metric: loss, mode: max}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run with four checkpoints, of which the second is damaged and a fifth is incomplete."""
    monkeypatch.chdir(tmp_path)
    run = RunFolder(locate("runs/mine"))
    run.recipe.write(RECIPE.encode())
    run.write(RunFile("mine", "r", "i", "sqlite:///x", "id", 9, "2026-01-01", "KILLED"))
    for step in (1, 2, 3, 4):
        save_by(2, run, step)
    damaged = run.checkpoints / "step-00000002" / "model-1-of-2-first-1.safetensors"
    content = damaged.read()
    damaged.write(content[:-1] + bytes([content[-1] ^ 1]))
    (run.checkpoints / "step-00000005" / "model-0-of-2-x-1.safetensors").write(b"half of it")
    return run


def checkpoints(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["checkpoints", *arguments])


def found(*arguments: str, code: int = 0) -> Any:
    result = checkpoints(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def states(*arguments: str, code: int = 0) -> dict[int, str]:
    return {one["step"]: one["state"] for one in found(*arguments, code=code)["checkpoints"]}


def test_list_shows_what_there_is_without_reading_it(run: RunFolder) -> None:
    assert states("list", "mine") == {1: "whole", 2: "whole", 3: "whole", 4: "whole", 5: "incomplete"}
    first = found("list", "mine")["checkpoints"][0]
    assert first["metrics"] == {"loss": 1.0}
    assert first["size_bytes"] == sum((run.checkpoints / "step-00000001").sizes().values())
    assert datetime.now(UTC) > datetime.fromisoformat(first["saved"])
    said = checkpoints("list", "mine").stdout
    assert said.splitlines()[0].split() == ["step", "saved", "size", "loss", "state"]
    assert "step 5: it has no manifest: it is being written, or writing it was interrupted" in said
    assert checkpoints("list", "mine", "--metric", "norm").stdout.splitlines()[0].split()[3] == "norm"


def test_verify_finds_and_marks_what_is_damaged(run: RunFolder) -> None:
    result = checkpoints("verify", "mine")
    assert result.exit_code == 1
    assert "step 2: damaged (" in result.stdout
    assert "model-1-of-2-first-1.safetensors: is damaged (its digest does not match" in result.stdout
    assert "step 5: incomplete" in result.stdout
    assert states("list", "mine")[2] == "damaged"
    assert [place.name[-1] for place in run.committed_checkpoints()] == ["4", "3", "1"]
    assert states("verify", "mine", code=1) == {5: "incomplete", 4: "whole", 3: "whole", 2: "damaged", 1: "whole"}


def test_verify_takes_the_mark_off_what_was_mended(run: RunFolder) -> None:
    checkpoints("verify", "mine")
    save_by(2, run, 7)
    other = run.checkpoints / "step-00000002"
    content = (other / "model-1-of-2-first-1.safetensors").read()
    (other / "model-1-of-2-first-1.safetensors").write(content[:-1] + bytes([content[-1] ^ 1]))
    result = checkpoints("verify", "mine")
    assert result.exit_code == 0
    assert "step 2: whole; it was marked as damaged and is not any more" in result.stdout
    assert states("list", "mine")[2] == "whole"


def test_a_pinned_checkpoint_outlives_pruning(run: RunFolder) -> None:
    assert found("pin", "mine", "2")["pinned"] is True
    assert "stays until" in checkpoints("pin", "mine", "2").stdout
    assert "whole, pinned" in checkpoints("list", "mine").stdout
    assert found("prune", "mine", "--keep", "1")["deleted"][0]["step"] == 3
    assert states("list", "mine").keys() == {1, 2, 4, 5}
    assert found("pin", "mine", "2", "--remove")["pinned"] is False
    assert [one["step"] for one in found("prune", "mine", "--keep", "1")["deleted"]] == [2]


def test_prune_follows_the_recipe_and_can_only_look(run: RunFolder) -> None:
    said = checkpoints("prune", "mine", "--dry-run").stdout
    size = r"\d+\.\d kB"
    assert re.match(rf"would be deleted: step 2 \(whole, {size}\)\nwould be deleted in all: 1, {size}\n", said)
    assert states("list", "mine").keys() == {1, 2, 3, 4, 5}
    assert checkpoints("prune", "mine").stdout.startswith("deleted: step 2")
    assert states("list", "mine").keys() == {1, 3, 4, 5}
    loaded = load_newest(run)
    assert loaded is not None
    assert loaded.state.next_step == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "nope"], "no run 'nope' below runs"),
        (["pin", "mine", "9"], "has no checkpoint of step 9; there are those of 1, 2, 3, 4, 5"),
        (["pin", "mine", "5"], "is incomplete: it has no manifest.*Pin a whole checkpoint"),
        (["pin", "mine", "9", "--remove"], "has no checkpoint of step 9"),
    ],
)
def test_what_cannot_be_done_is_explained(run: RunFolder, arguments: list[str], message: str) -> None:
    result = checkpoints(*arguments)
    with pytest.raises(FuserayError, match=message):
        raise result.exception or AssertionError(result.output)


def test_wrong_numbers_are_refused(run: RunFolder) -> None:
    assert checkpoints("prune", "mine", "--keep", "0").exit_code == 2
    assert checkpoints("pin", "mine", "first").exit_code == 2


def test_a_run_without_checkpoints_is_no_error(run: RunFolder) -> None:
    run.checkpoints.delete()
    assert "holds no checkpoint yet" in checkpoints("list", "mine").stdout
    assert "holds no checkpoint" in checkpoints("verify", "mine").stdout
    assert found("prune", "mine")["deleted"] == []


def test_the_verbs_work_from_the_shell_and_leave_the_heavy_libraries_out(run: RunFolder) -> None:
    code = (
        "import sys; from orchestrator.cli.main import cli;"
        "[cli(['checkpoints', verb, 'mine'], standalone_mode=False) for verb in ('list', 'prune')];"
        "assert not {'torch', 'ray', 'mlflow'} & {*sys.modules}, sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
