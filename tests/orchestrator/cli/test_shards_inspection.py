"""`fuseray shards inspect`, `verify` and `stats` as a user meets them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from damage import photo, shard_file, write_data_set
from PIL import Image
from shards import samples

from orchestrator.cli.console import printable, progress_bar
from orchestrator.cli.shards.build import command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound data set, and one with two bad images."""
    data = tmp_path_factory.mktemp("data")
    found = list(samples(20))
    found[2] = replace(found[2], captions=("a \x1b[31mred\x1b[0m caption",))
    write_data_set(data / "good", [found[:10], found[10:]], "webdataset")
    found[4] = replace(found[4], image=photo()[:900])
    found[15] = replace(found[15], image=b"no image")
    write_data_set(data / "bad", [found[:10], found[10:]], "webdataset")
    return data


@pytest.fixture
def shards(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a verb on one of the data sets, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(verb: str, name: str, *options: str) -> Result:
        return CliRunner().invoke(command, [verb, str(data / name), *options])

    return run


Shards = Callable[..., Result]


def test_samples_are_printed_and_drawn(shards: Shards) -> None:
    done = shards("inspect", "bad", "--out", "sheet.png")
    assert done.exit_code == 0, done.output
    assert "s00001  (shard-000000.tar, row 1)  PNG 24x24" in done.output
    assert "fault: image is truncated" in done.output
    assert "\x1b" not in done.output
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 500


def test_samples_are_named_by_key_or_chosen_by_seed(shards: Shards) -> None:
    named = json.loads(shards("inspect", "good", "--key", "s00013", "--json").stdout)
    assert [(one["key"], one["row"], one["fields"]) for one in named["samples"]] == [("s00013", 3, {"number": 13})]
    choices = [
        [one["key"] for one in json.loads(shards("inspect", "good", *options).stdout)["samples"]]
        for options in (["--samples", "4", "--json", "--seed", seed] for seed in ("1", "1", "2"))
    ]
    assert choices[0] == choices[1] != choices[2]
    missing = shards("inspect", "good", "--key", "nope")
    assert "no sample has the key 'nope'" in str(missing.exception)


def test_a_sound_data_set_verifies(shards: Shards) -> None:
    done = shards("verify", "good")
    assert done.exit_code == 0, done.output
    assert "Nothing is wrong." in done.output
    (report,) = Path().glob("verify-*-good.jsonl")
    assert report.read_text() == ""


def test_faults_are_listed_counted_and_exit_with_one(shards: Shards) -> None:
    done = shards("verify", "bad", "--report", "out/bad.jsonl", "--json")
    assert done.exit_code == 1
    summary = json.loads(done.stdout)
    assert summary["findings"] == {"image is corrupt": 1, "image is truncated": 1}
    assert summary["complete"] is True
    assert json.loads(Path("out/bad.jsonl.summary.json").read_text()) == summary
    findings = [json.loads(line) for line in Path("out/bad.jsonl").read_text().splitlines()]
    assert [(one["shard"], one["key"], one["kind"]) for one in findings] == [
        ("shard-000000.tar", "s00004", "image is truncated"),
        ("shard-000001.tar", "s00015", "image is corrupt"),
    ]
    again = shards("verify", "bad", "--report", "out/bad.jsonl")
    assert again.exit_code == 1
    assert "2 shards were read before and have not changed" in again.output
    assert "1  image is truncated" in again.output


def test_a_data_set_that_is_not_there_leaves_no_files(shards: Shards) -> None:
    done = shards("verify", "nowhere")
    assert "nowhere: does not exist" in str(done.exception)
    assert not list(Path().iterdir())


def test_statistics_are_printed_and_drawn(shards: Shards) -> None:
    done = shards("stats", "bad", "--chunk", "2", "--chunk", "5", "--window", "10", "--out", "page")
    assert done.exit_code == 0, done.output
    assert "20 samples in 2 webdataset shards" in done.output
    assert "1 unusable" in done.output
    assert Path("page/stats.html").read_text().count("perfect 29.3%") == 2
    values = json.loads(shards("stats", "good", "--json", "--out", "good.html").stdout)
    assert sum(values["caption_words"]) == 20
    assert values["shuffles"][0]["separation"]["epoch"] == 20
    assert Path("good.html").exists()


def test_ctrl_c_keeps_what_was_found(tmp_path: Path) -> None:
    image = photo(900)
    large = [replace(sample, image=image) for sample in samples(200)]
    data = write_data_set(tmp_path / "large", [large[start : start + 4] for start in range(0, 200, 4)], "webdataset")
    arguments = ["-m", "orchestrator.cli", "shards", "verify", str(data), "--report", "report.jsonl", "--json"]
    process = subprocess.Popen([sys.executable, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "report.jsonl.state"
    while not state.exists() or state.read_bytes().count(b"\n") < 3:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 130
    assert "not complete: " in said
    kept = json.loads((tmp_path / "report.jsonl.summary.json").read_text())
    assert kept["complete"] is False
    assert 0 < kept["read"] < 50
    shard_file(data, 49, "webdataset").unlink()
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    summary = json.loads(done.stdout)
    assert done.returncode == 1
    assert summary["read"] == 49 - kept["read"]
    assert summary["findings"] == {"shard is missing": 1}


def test_text_is_made_safe_to_print() -> None:
    assert printable("caf\u00e9 \x1b[2J \u202e \ud800") == "caf\u00e9 \\x1b[2J \\u202e \\ud800"
    assert printable("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"


def test_progress_speaks_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter(range(0, 1000, 4))
    with progress_bar("shards", 7, done=1, clock=lambda: float(next(times))) as advance:
        for _ in range(6):
            advance()
    assert capsys.readouterr().err.splitlines() == ["4/7 shards", "7/7 shards"]
