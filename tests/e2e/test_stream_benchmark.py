"""The stream benchmark runs, delivers every sample, and prints what it promises; how fast is for people to read."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stream.py"

MEASURED = {"samples_per_s", "share_of_limit", "first_batch_s", "wait_p50_s", "wait_p99_s", "epoch_gap_s"}
SETTING = {"samples": 48, "epochs": 2, "batch_size": 8, "rounds": 1}


def test_loaders_take_turns_and_print_a_line_each(tmp_path: Path) -> None:
    loaders = ["--loader", "limit", "--loader", "fuseray"]
    options = [text for key, value in SETTING.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    done = run(*loaders, *options, "--data", str(tmp_path))
    assert done.returncode == 0, done.stderr
    limit, fuseray = map(json.loads, done.stdout.splitlines())
    assert (limit["loader"], fuseray["loader"]) == ("limit", "fuseray")
    for line in (limit, fuseray):
        assert line["source"] == "local"
        assert line["delivered"] == SETTING["samples"] * SETTING["epochs"]
        assert min(line[key] for key in MEASURED | {"image_bytes"}) > 0
        assert line["cpu_s_per_1000"] >= 0  # none where everything was read ahead before the count began
        assert line["wait_p99_s"] >= line["wait_p50_s"]
        assert {key: line[key] for key in SETTING} == SETTING
    assert limit["share_of_limit"] == 1
    assert limit["object_store_peak_bytes"] is None
    assert fuseray["object_store_peak_bytes"] is not None


def test_a_missing_loader_is_named_with_what_to_install() -> None:
    without_peers = "import sys; sys.modules.update(webdataset=None, litdata=None)"
    main = f"{without_peers}; sys.path.insert(0, sys.argv.pop(1)); from stream import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", main, str(SCRIPT.parent)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert "webdataset, litdata: not installed; pip install 'fuseray[bench]'" in done.stderr


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=6000, check=False
    )
