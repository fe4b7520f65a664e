"""Held-out samples that cannot be used: counted in a metric and a line, and never the end of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from damage import flipped, rewrite, shard_file, write_data_set
from ray import cloudpickle
from runs import write_run
from shards import picture, samples, write_shards
from toy_workload import ToyConfig, ToyOptions, ToyWorkload

from orchestrator.evaluate.features import SpillingFeatures
from orchestrator.evaluate.held_out import HeldOutSamples, Measurement
from orchestrator.evaluate.measure import InProcess, Measuring
from orchestrator.storage.location import locate
from orchestrator.storage.retry import Cause, StorageError
from orchestrator.stream.dataset.index import DataSetError, read_index
from orchestrator.stream.unusable import read_unusable, write_unusable
from orchestrator.train.recovery.classify import diagnose_error, evaluation_error
from orchestrator.train.recovery.diagnosis import FailureKind
from orchestrator.train.recovery.failure_report import message, record, report_failure
from orchestrator.train.recovery.policy import AttemptFailure, GiveUp
from workloads.albef.config import AlbefConfig
from workloads.albef.workload import AlbefWorkload
from workloads.contract import EvaluationOptions, KeyedRandom, Sample, Workload, WorkloadError
from workloads.downstream.retrieval_options import RetrievalOptions

ALBEF = AlbefConfig.model_validate(
    {
        "model": {
            "preset": "tiny",
            "image_size": 16,
            "vision": {"width": 16, "depth": 1, "heads": 1},
            "text": {"width": 16, "layers": 1, "fusion_layers": 1, "heads": 1},
        },
        "contrastive": {"queue_size": 8},
    }
)


def without_captions(folder: Path, number: int) -> None:
    """Make the caption of a sample of a tar unreadable."""
    caption = f"picture number {number} of a patch".encode()
    rewrite(shard_file(folder, 0, "webdataset"), lambda content: flipped(content, content.index(caption)))


def measured_by(workload: Workload, options: EvaluationOptions, folder: Path, limit: int | None = None) -> Measurement:
    location = locate(str(folder))
    held_out = HeldOutSamples.of(location, read_index(location), options.block, limit)
    with workload.evaluator(options) as evaluator, SpillingFeatures(10**6) as features:
        return Measuring(evaluator, held_out, InProcess(evaluator, held_out, features)).run()


def toy(folder: Path, limit: int | None = None) -> Measurement:
    workload = ToyWorkload(ToyConfig())
    workload.build(torch.device("cpu"), KeyedRandom(("held-out",)), pretrained=False)
    return measured_by(workload, ToyOptions(block=2), folder, limit)


def test_unreadable_samples_are_counted_and_listed_with_their_reason(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data", [list(samples(5))], "webdataset")
    without_captions(folder, 3)
    measured = toy(folder)
    assert (measured.evaluation.metrics["samples"], measured.evaluation.metrics["skipped"]) == (4, 1)
    assert [(sample.key, measured.held_out.total) for sample in measured.unusable] == [("s00003", 5)]
    assert measured.describe_unusable() == (
        f"1 of 5 held-out samples cannot be used (1 {measured.unusable[0].reason}, first 's00003'); "
        f"see `fuseray shards verify {folder}`"
    )
    assert toy(folder, limit=2).describe_unusable() == ""


def test_those_that_the_workload_cannot_use_count_as_well(tmp_path: Path) -> None:
    content = [
        *samples(3),
        Sample("broken", picture(9)[:60], ("a broken picture",)),
        Sample("dots", picture(8), ("...",)),
    ]
    folder = write_data_set(tmp_path / "data", [content], "webdataset")
    without_captions(folder, 0)
    workload = AlbefWorkload(ALBEF)
    workload.build(torch.device("cpu"), KeyedRandom(("held-out",)), pretrained=False)
    measured = measured_by(workload, RetrievalOptions(), folder)
    assert measured.evaluation.metrics["skipped"] == 3
    assert [sample.key for sample in measured.unusable] == ["s00000", "broken", "dots"]
    assert [sample.reason for sample in measured.unusable[1:]] == ["image is truncated", "caption is empty"]


def test_without_a_usable_sample_the_error_names_the_place_and_the_first_reason(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data", [list(samples(1))], "webdataset")
    without_captions(folder, 0)
    with pytest.raises(DataSetError, match=f"^{folder}: 1 of 1 held-out samples cannot be used .*'s00000'"):
        toy(folder)
    broken = write_data_set(tmp_path / "broken", [[Sample("b", picture(9)[:60], ("a picture",))]], "webdataset")
    workload = AlbefWorkload(ALBEF)
    workload.build(torch.device("cpu"), KeyedRandom(("held-out",)), pretrained=False)
    with pytest.raises(WorkloadError, match=f"^{broken}: no sample to evaluate: .*image is truncated"):
        measured_by(workload, RetrievalOptions(), broken)


def test_the_list_comes_back_and_goes_when_all_is_well_again(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data", [list(samples(2))], "webdataset")
    without_captions(folder, 1)
    unusable, file = toy(folder).unusable, locate(str(tmp_path / "list.jsonl"))
    write_unusable(file, unusable)
    assert read_unusable(file) == list(unusable)
    write_unusable(file, ())
    assert not file.exists()
    assert read_unusable(file) == []


def test_a_failed_evaluation_names_the_held_out_samples_and_none_of_the_step(tmp_path: Path) -> None:
    plan = write_run(tmp_path, f"data.train={write_shards(str(tmp_path / 'data'), 40)}")
    error = evaluation_error(WorkloadError("s3://b/held-out: none can be used"), "s3://b/held-out")
    failed = AttemptFailure(diagnose_error(cloudpickle.loads(cloudpickle.dumps(as_raised(error)))), 3, GiveUp(1))
    failure = report_failure(error, failed, plan, tmp_path / "log")
    lines = message(failure).splitlines()
    assert lines[0].startswith("The run failed at step 3 on worker 0: ")
    assert "  error    evaluating on the held-out samples in s3://b/held-out failed: none can be used" in lines
    assert (
        "  samples  held-out ones, in s3://b/held-out; `fuseray shards verify s3://b/held-out` looks at each" in lines
    )
    assert "fuseray trace" not in message(failure)
    assert (record(failure)["micro_batches"], record(failure)["held_out"]) == ([], "s3://b/held-out")


def test_what_stopped_an_evaluation_decides_whether_it_is_tried_again() -> None:
    passing = StorageError(f"s3://b: cannot be read after 8 attempts: {Cause.INTERRUPTED.value} (x).")
    assert diagnose_error(as_raised(evaluation_error(passing, "s3://b"))).is_retryable
    fault = diagnose_error(as_raised(evaluation_error(ValueError("odd"), "s3://b")))
    assert (fault.kind, fault.is_retryable) == (FailureKind.USER_ERROR, False)
    assert fault.error == "evaluating on the held-out samples in s3://b failed: ValueError: odd"


def as_raised(error: Exception) -> Exception:
    """The error as Ray Train hands it over when worker 0 raised it."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    return WorkerGroupError("workers failed", {0: error})
