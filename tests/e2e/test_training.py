"""Whole runs on Ray: real shards, real workers, a real MLflow store."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest
from mlflow.tracking import MlflowClient

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.metric_log import read_metric_log
from orchestrator.track.run_writer import TrackedRun

STEPS = 12
RECIPE = f"""\
workload: albef
data: {{train: emoji/train, held_out: emoji/held-out}}
batch: {{micro_batches: 2, micro_batch_size: 8}}
length: {{steps: {STEPS}}}
scale: {{workers: 2, cpus_per_worker: 0.5, object_store_mb: 300}}
stream: {{chunk: 16, window: 64, max_bad_share: 0.1}}
precision: float64
model:
  preset: tiny
  image_size: 32
  vision: {{width: 64, depth: 2, heads: 2}}
  text: {{width: 64, layers: 2, fusion_layers: 2, heads: 2}}
  text_weights: null
text: {{max_tokens: 12}}
contrastive: {{queue_size: 64}}
adversarial: {{steps: 1, init: uniform, active: [0.5, 1.0]}}
optimizer: {{learning_rate: 1e-3, clip_norm: 1.0}}
checkpoint: {{every_steps: 5}}
evaluation: {{every_steps: {STEPS}, samples: 12, rerank: 4}}
"""


def fuseray(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return preloaded.fuseray(*arguments, folder=folder, timeout_s=1200)


def curves(folder: Path, name: str) -> dict[str, tuple[list[int], list[float]]]:
    file = RunFolder(locate(str(folder / "runs" / name))).read()
    return TrackedRun(f"sqlite:///{folder}/runs/mlflow.db", file.mlflow_run_id).curves()


def runs_in_mlflow(folder: Path) -> set[str]:
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id for run in client.search_runs(experiments)}


def status(folder: Path, name: str) -> str:
    return RunFolder(locate(str(folder / "runs" / name))).read().status


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with shards of real drawings, one image of each split damaged, and a recipe."""
    folder = tmp_path_factory.mktemp("user")
    built = fuseray("data", "emoji", "emoji", "--limit", "150", "--samples-per-shard", "40", folder=folder)
    assert built.returncode == 0, built.stderr
    for shard in ("train/shard-000001.tar", "held-out/shard-000000.tar"):
        content = bytearray((folder / "emoji" / shard).read_bytes())
        content[512:900] = bytes(388)
        (folder / "emoji" / shard).write_bytes(content)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """The folder after an undisturbed run of two workers, named `whole`."""
    done = fuseray("train", "recipe.yaml", "name=whole", folder=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(re.findall(r"1 of \d+ held-out samples cannot be used \(1 image is ", done.stdout)) == 1, done.stdout
    return folder


@pytest.mark.timeout(1800)
def test_a_run_finishes_and_tells_the_truth(undisturbed: Path) -> None:
    found = curves(undisturbed, "whole")
    assert status(undisturbed, "whole") == "FINISHED"
    for name in ("loss", "loss_itc", "loss_itm", "loss_mlm", "alpha", "temperature", "learning_rate", "gradient_norm"):
        assert found[name][0] == list(range(STEPS)), name
    assert found["loss_adversarial"][0] == list(range(STEPS // 2, STEPS))
    assert sum(found["samples"][1]) + found["skipped_samples"][1][-1] == STEPS * 16
    assert "held_out/text_to_image/recall@10" in found
    assert found["seconds/checkpoint"][0] == [4, 9, STEPS - 1]
    assert min(found["checkpoint/write_s"][1]) > 0
    verified = fuseray("checkpoints", "verify", "whole", "--json", folder=undisturbed)
    assert verified.returncode == 0, verified.stderr
    assert [one["step"] for one in json.loads(verified.stdout)["checkpoints"]] == [STEPS, 10, 5]
    assert all(0 < share < 1 for share in found["goodput"][1])
    log = list(read_metric_log(locate(str(undisturbed / "runs" / "whole" / "metrics"))))
    assert [line.metrics["loss"] for line in log] == found["loss"][1]
    assert log[-1].seconds["checkpoint"] == found["seconds/checkpoint"][1][-1]


@pytest.mark.timeout(1800)
def test_a_damaged_image_is_skipped_once_an_epoch_and_listed(undisturbed: Path) -> None:
    lines = (undisturbed / "runs" / "whole" / "quarantine.jsonl").read_text().splitlines()
    skipped = [json.loads(line) for line in lines]
    assert {Path(skip["shard"]).name for skip in skipped} == {"shard-000001.tar"}
    assert len({skip["key"] for skip in skipped}) == 1
    assert all(skip["reason"].startswith("image is") for skip in skipped)


@pytest.mark.timeout(1800)
def test_an_unusable_held_out_sample_is_counted_and_listed(undisturbed: Path) -> None:
    assert curves(undisturbed, "whole")["held_out/skipped"] == ([STEPS - 1], [1.0])
    (line,) = (undisturbed / "runs" / "whole" / "held-out-quarantine.jsonl").read_text().splitlines()
    key = json.loads(line)["key"]
    evaluated = fuseray("evaluate", "whole", folder=undisturbed)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"held-out samples cannot be used (1 image is corrupt, first {key!r})" in evaluated.stdout
    report = fuseray("report", "whole", "--json", folder=undisturbed)
    assert Path(json.loads(report.stdout)["report"]).read_text().count(f"<code>{key}</code>") == 2


@pytest.mark.timeout(1800)
def test_the_final_model_loads_without_ray(undisturbed: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from workloads.interop.export import load_exported;"
        "model = load_exported(Path('runs/whole/model')); print(type(model).__name__);"
        "assert 'ray' not in sys.modules and 'orchestrator' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=undisturbed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(1800)
def test_evaluate_and_report_work_on_a_finished_run(undisturbed: Path) -> None:
    first = fuseray("evaluate", "whole", "--json", folder=undisturbed)
    assert first.returncode == 0, first.stderr
    metrics = json.loads(first.stdout)["metrics"]
    assert 0 <= metrics["text_to_image/recall@10"] <= 1
    assert "reranked/image_to_text/recall@1" in metrics
    assert json.loads(fuseray("evaluate", "whole", "--json", folder=undisturbed).stdout)["metrics"] == metrics
    report = fuseray("report", "whole", "--json", folder=undisturbed)
    assert report.returncode == 0, report.stderr
    assert Path(json.loads(report.stdout)["report"]).read_text().startswith("<!DOCTYPE html>")


@pytest.mark.timeout(1800)
def test_a_second_run_of_the_name_is_refused_and_a_finished_one_needs_nothing(undisturbed: Path) -> None:
    again = fuseray("train", "recipe.yaml", "name=whole", folder=undisturbed)
    assert again.returncode == 1
    assert "--resume whole" in again.stderr
    done = fuseray("train", "recipe.yaml", "--resume", "whole", folder=undisturbed)
    assert done.returncode == 0
    assert "already finished" in done.stdout


@pytest.mark.timeout(1800)
def test_a_run_for_which_ray_does_not_start_leaves_nothing(undisturbed: Path) -> None:
    before = runs_in_mlflow(undisturbed)
    variables = os.environ | {"RAY_TMPDIR": "/dev/null"}
    done = preloaded.fuseray("train", "recipe.yaml", "name=never", folder=undisturbed, environment=variables)
    assert done.returncode == 1
    assert "Ray cannot be started on this machine (NotADirectoryError" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (undisturbed / "runs" / "never").iterdir()] == ["logs"]
    assert runs_in_mlflow(undisturbed) == before


@pytest.mark.timeout(1800)
def test_a_run_stops_with_a_clear_error_when_too_much_is_bad(undisturbed: Path) -> None:
    damaged = undisturbed / "damaged"
    shutil.copytree(undisturbed / "emoji", damaged)
    for shard in (damaged / "train").glob("shard-*.tar"):
        shard.write_bytes(shard.read_bytes()[:20_000])
    done = fuseray("train", "recipe.yaml", "name=bad", "data.train=damaged/train", folder=undisturbed)
    assert done.returncode == 1
    assert "is shorter than when it was indexed" in done.stdout
    assert "samples are bad, more than stream.max_bad_share (0.1) allows" in done.stderr
    assert "Traceback" not in done.stderr
    assert status(undisturbed, "bad") == "FAILED"
