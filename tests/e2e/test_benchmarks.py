"""The benchmark scripts run and print what they promise; how fast is for people to read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"

CHECKPOINT_SCRIPT = SCRIPT.with_name("checkpoint.py")

KEYS = [
    "config",
    "adversarial_steps",
    "pairs_per_s",
    "gflop_per_pair",
    "gemm_gflops",
    "pairs_per_gemm_gflops",
    "mfu",
    "peak_bytes",
    "parts",
    "peer_pairs_per_s",
    "peer_gflop_per_pair",
    "speedup",
]


@pytest.mark.timeout(1800)
def test_the_training_step_prints_a_line_per_configuration() -> None:
    options = ["--config", "tiny", "--repeats", "1", "--batch-size", "4", "--adversarial-steps", "1"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert set(KEYS) <= set(line)
    assert line["adversarial_steps"] == 1
    assert line["mfu"] is None
    assert sum(line["parts"].values()) == pytest.approx(1, abs=1e-3)
    assert min(line[key] for key in ("pairs_per_s", "gemm_gflops", "peak_bytes", "peer_pairs_per_s")) > 0
    parts = {"image_encoder", "text", "fusion", "mlm_head", "teacher", "optimizer", "ema"}
    assert all(line["parts"][part] > 0 for part in parts)


@pytest.mark.timeout(1800)
def test_a_step_with_locked_layers_is_measured_beside_the_one_without() -> None:
    options = ["--config", "tiny", "--repeats", "1", "--batch-size", "4", "--adversarial-steps", "0"]
    locks = ["--lock-vision", "1", "--lock-text", "all"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options, *locks], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["lock_vision"], line["lock_text"]) == ("1", "all")
    assert line["gflop_per_pair"] < line["peer_gflop_per_pair"]
    assert line["peak_bytes"] < line["peer_peak_bytes"]
    assert line["speedup"] > 0


@pytest.mark.timeout(1800)
def test_the_checkpoint_prints_a_line_per_size(tmp_path: Path) -> None:
    options = ["--parameters", "1e6", "--parameters", "2e6", "--saves", "2", "--step-s", "0.1", "--interval", "10"]
    command = [sys.executable, str(CHECKPOINT_SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert second["state_mb"] == pytest.approx(2 * first["state_mb"], rel=0.01)
    assert first["share"] == pytest.approx(first["stall_s"], rel=1e-3)
    assert min(first[key] for key in ("sync_stall_s", "stall_s", "write_s", "load_s", "write_mb_per_s")) > 0
    assert list(tmp_path.iterdir()) == []
