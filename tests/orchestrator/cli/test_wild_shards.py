"""Shards as they are in the wild: every verb sees the same samples, and names the same faults of the same ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from streams import SEED, make_reader
from toy_workload import ToyConfig, ToyOptions, ToyTransform, ToyWorkload
from wild import CASES, make_case, parquet, picture

from orchestrator.cli.shards.build import command
from orchestrator.evaluate.features import SpillingFeatures
from orchestrator.evaluate.held_out import HeldOutSamples
from orchestrator.evaluate.measure import InProcess
from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import DataSetError, read_index
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import RawBatch
from orchestrator.stream.shards.statistics import measure_images
from workloads.contract import KeyedRandom


@dataclass(frozen=True)
class Expected:
    """What must come of an input.

    Args:
        samples: how many there are.
        bad: the reason of each that cannot be used, by its key; keys of two samples have both reasons, in order.
        left_out: what is named as not taken.
        refused: for an input that cannot be indexed, a part of the message.
        says: a part of what `shards index` prints.
    """

    samples: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    refused: str = ""
    says: str = ""

    @property
    def reasons(self) -> Counter[str]:
        """How many samples cannot be used, by reason."""
        return Counter(reason for reasons in self.bad.values() for reason in reasons.split(", "))


NOT_TOGETHER = "caption is missing, image is missing"
EXPECTED = {
    "repeated_member": Expected(
        2, {"0": "member is repeated", "1": "member is repeated"}, says="2 member is repeated (first 0 in s.tar: 0.jpg"
    ),
    "own_index_file": Expected(refused="index.parquet: is not an index of shards, and nothing is written over it"),
    "left_out": Expected(2, left_out=("b.tar.gz", "d.tgz", "sub/"), says="sub/ (a sub-folder, with e.tar"),
    "hf_splits": Expected(refused="splits test, train, validation, which are not one data set"),
    "hf_webdataset": Expected(2),
    "half_surrogate": Expected(2, {"0": "text is not valid Unicode"}),
    "latin1_name": Expected(2),
    "odd_address": Expected(2, {"p.parquet:1": "image address is not supported"}),
    "view_types": Expected(2),
    "image_list": Expected(1),
    "hf_paths": Expected(2),
    "paths_as_images": Expected(2),
    "apple_double": Expected(2),
    "apple_double_file": Expected(1),
    "dots_in_keys": Expected(1, {"v1": "image is missing"}, says="the key 'v1' ends at the first dot"),
    "not_adjacent": Expected(6, dict.fromkeys("012", NOT_TOGETHER), says="do not stand side by side"),
    "long_number": Expected(2, {"0": "json is malformed"}),
    "fields_are_a_list": Expected(2, {"p.parquet:0": "json is malformed"}),
    "name_twice": Expected(refused="p.parquet: has 2 columns with the name 'caption'"),
    "img2dataset_output": Expected(2, left_out=("00000.parquet",), says="img2dataset's list"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Result]]:
    """Every input with what indexing it printed."""
    folder = tmp_path_factory.mktemp("wild")
    made = {name: make_case(name, folder) for name in CASES}
    return {name: (place, run("index", place)) for name, place in made.items()}


Inputs = dict[str, tuple[Path, Result]]


def run(verb: str, place: Path, *options: str) -> Result:
    return CliRunner().invoke(command, [verb, str(place), *options])


def index(place: Path, _: Path) -> tuple[int, Counter[str]]:
    values = json.loads(run("index", place, "--json").stdout)
    assert values["usable"] == values["samples"] - sum(fault["count"] for fault in values["faults"])
    return values["samples"], Counter({fault["reason"]: fault["count"] for fault in values["faults"]})


def verify(place: Path, tmp_path: Path) -> tuple[int, Counter[str]]:
    report = tmp_path / "report.jsonl"
    result = run("verify", place, "--report", str(report), "--json")
    findings = [json.loads(line) for line in report.read_text().splitlines()]
    assert result.exit_code == bool(findings), result.output
    kinds = Counter(finding["kind"] for finding in findings if finding["kind"] != "key is a duplicate")
    return json.loads(result.stdout)["samples"], kinds


def inspect(place: Path, _: Path) -> tuple[int, Counter[str]]:
    values = json.loads(run("inspect", place, "--json").stdout)
    faults = [sample["fault"] for sample in values["samples"] if sample["fault"]]
    assert values["unusable"] == len(faults)
    return len(values["samples"]), Counter(fault.partition(":")[0] for fault in faults)


def stats(place: Path, _: Path) -> tuple[int, Counter[str]]:
    folder = locate(str(place))
    sizes = measure_images(folder, read_index(folder), 100, lambda: None)
    return len(sizes.widths) + sizes.unusable, Counter({fault.reason: fault.count for fault in sizes.faults})


def training(place: Path, _: Path) -> tuple[int, Counter[str]]:
    """What the readers and the decoders of a run make of it, with the way from one to the other."""
    count = read_index(locate(str(place))).total
    raw = make_reader(str(place), size=4).read(range(-(-count // 4)))
    batches = [Decoder(ToyTransform(), SEED)(RawBatch.decode(batch.encode())) for batch in raw]
    skipped = [sample for batch in batches for sample in batch.skipped]
    return sum(batch.samples for batch in batches) + len(skipped), Counter(sample.reason for sample in skipped)


def evaluation(place: Path, _: Path) -> tuple[int, Counter[str]]:
    """What an evaluation makes of it, as held-out samples."""
    folder = locate(str(place))
    held_out = HeldOutSamples.of(folder, read_index(folder), block_size=4)
    workload = ToyWorkload(ToyConfig())
    workload.build(torch.device("cpu"), KeyedRandom(("wild",)))
    with workload.evaluator(ToyOptions()) as evaluator, SpillingFeatures(0) as features:
        executor = InProcess(evaluator, held_out, features)
        unusable = [one for block in executor.encode(range(held_out.blocks)) for one in block.unreadable]
    return held_out.total, Counter(sample.reason for sample in unusable)


VERBS: dict[str, Callable[[Path, Path], tuple[int, Counter[str]]]] = {
    "index": index,
    "verify": verify,
    "inspect": inspect,
    "stats": stats,
    "training": training,
    "evaluation": evaluation,
}
"""What each verb sees of an input: its samples, and the reasons for which some cannot be used."""


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if not expected.refused])
def test_every_verb_sees_the_same_samples(inputs: Inputs, tmp_path: Path, name: str, verb: str) -> None:
    assert VERBS[verb](inputs[name][0], tmp_path) == (EXPECTED[name].samples, EXPECTED[name].reasons)


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if not expected.refused])
def test_index_says_what_can_be_used_and_what_was_not_taken(inputs: Inputs, name: str) -> None:
    place, result = inputs[name]
    expected = EXPECTED[name]
    usable = expected.samples - expected.reasons.total()
    assert result.exit_code == (0 if usable else 1), result.output
    assert ("No sample can be used" in result.stderr) == (not usable)
    assert expected.says in result.output
    assert f"; the index is {place}/index.parquet" in result.output
    assert (f"of which {usable} can be used" in result.output) == (usable < expected.samples)
    values = json.loads(run("index", place, "--json").stdout)
    assert tuple(item["name"] for item in values["left_out"]) == expected.left_out


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected.bad])
def test_bad_samples_are_named_by_key_and_reason(inputs: Inputs, name: str) -> None:
    result = json.loads(run("inspect", inputs[name][0], "--json").stdout)
    bad: dict[str, str] = {}
    for sample in result["samples"]:
        if reason := sample["fault"].partition(":")[0]:
            bad[sample["key"]] = ", ".join(filter(None, [bad.get(sample["key"], ""), reason]))
    assert bad == EXPECTED[name].bad


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected.refused])
def test_what_cannot_be_indexed_is_refused_and_left_as_it_is(inputs: Inputs, name: str) -> None:
    place, result = inputs[name]
    assert isinstance(result.exception, DataSetError)
    assert EXPECTED[name].refused in str(result.exception)
    before = {file: file.read_bytes() for file in place.iterdir()}
    for verb in ("verify", "inspect", "stats"):
        assert isinstance(run(verb, place).exception, DataSetError)
    assert {file: file.read_bytes() for file in place.iterdir()} == before


def test_every_input_is_judged() -> None:
    assert set(EXPECTED) == set(CASES)


def test_a_split_is_chosen_by_option_and_used_by_pattern(tmp_path: Path) -> None:
    place = make_case("hf_splits", tmp_path)
    result = run("index", place, "--split", "train")
    assert result.exit_code == 0, result.output
    assert "1 samples in 1 shards; the index is" in result.output
    assert f"these are the shards of {place}/train-*.parquet; name them so in recipes" in result.output
    assert "test-00000-of-00001.parquet, validation-00000-of-00001.parquet (not in the pattern)" in result.output
    (seen,) = json.loads(run("inspect", place / "train-*.parquet", "--json").stdout)["samples"]
    assert seen["captions"] == ["train"]
    assert run("verify", place / "train-*.parquet", "--report", str(tmp_path / "report.jsonl")).exit_code == 0
    assert "has no split 'dev'; its splits: test, train, validation" in str(
        run("index", place, "--split", "dev").exception
    )
    everything = run("index", place / "*.parquet")
    assert "3 samples in 3 shards" in everything.output


def test_fields_of_a_struct_and_names_of_another_encoding(inputs: Inputs) -> None:
    fields = json.loads(run("inspect", inputs["hf_webdataset"][0], "--json").stdout)["samples"][0]["fields"]
    assert fields == {"caption": "a picture of thing 0", "width": 48}
    keys = [one["key"] for one in json.loads(run("inspect", inputs["latin1_name"][0], "--json").stdout)["samples"]]
    assert keys == ["caf\ufffd", "1"]


def test_index_says_what_it_did_not_look_at_and_which_columns_it_chose(inputs: Inputs, tmp_path: Path) -> None:
    place, result = inputs["paths_as_images"]
    assert f"2 images are at addresses; `fuseray shards verify {place}` looks at them" in result.output
    parquet(tmp_path / "a.parquet", image=[picture(0)], caption=["x"], text=["y"])
    assert "columns taken: image and caption; not taken: text" in run("index", tmp_path).output


def test_verify_names_what_is_not_taken(inputs: Inputs, tmp_path: Path) -> None:
    result = run("verify", inputs["left_out"][0], "--report", str(tmp_path / "report.jsonl"))
    assert result.exit_code == 0, result.output
    assert "not taken: b.tar.gz, d.tgz (compressed" in result.output
    assert "Nothing is wrong." in result.output
