"""One run over all shards as they are in the wild: each of their samples is trained on, or skipped with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from mlflow_database import new_database
from preloaded import fuseray
from small_recipes import PACED
from toyland import install_toyland, with_toyland
from wild import CASES, make_case

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.dataset.shard_folder import locate_shards
from orchestrator.stream.micro_batch import read_quarantine
from orchestrator.stream.shards.index_shards import IndexOptions, make_index

PATTERNS = {"hf_splits": "hf_splits/train-*.parquet"}
"""Inputs of which a part can be trained on."""

SKIPPED = {
    ("repeated_member", "0", "member is repeated"),
    ("repeated_member", "1", "member is repeated"),
    ("half_surrogate", "0", "text is not valid Unicode"),
    ("odd_address", "p.parquet:1", "image address is not supported"),
    ("dots_in_keys", "v1", "image is missing"),
    *(("not_adjacent", key, f"{part} is missing") for key in "012" for part in ("image", "caption")),
    ("long_number", "0", "json is malformed"),
    ("fields_are_a_list", "p.parquet:0", "json is malformed"),
}
EPOCHS = 6
"""A mixture of small data sets has met every sample of theirs by then."""


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Addresses of all inputs that can be indexed, with their numbers of samples."""
    folder = tmp_path_factory.mktemp("wild")
    counts: dict[str, int] = {}
    for name in CASES:
        make_case(name, folder)
        uri = str(folder / PATTERNS.get(name, name))
        try:
            counts[uri] = make_index(locate_shards(uri), IndexOptions(), lambda _: None).index.total
        except DataSetError:
            continue
    return counts


@pytest.mark.timeout(600)
def test_a_run_skips_what_index_says_and_trains_on_the_rest(indexed: dict[str, int], tmp_path: Path) -> None:
    recipe = yaml.safe_load(PACED)
    recipe["stream"]["max_bad_share"] = 1.0
    recipe["data"] = {"mix": [{"uri": uri} for uri in indexed]}
    recipe |= {"name": "wild", "length": {"epochs": EPOCHS}, "checkpoint": {"every_steps": 1000}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    new_database(tmp_path / "runs" / "mlflow.db")
    site = os.environ | with_toyland(install_toyland(tmp_path / "site"))
    done = fuseray("train", "recipe.yaml", folder=tmp_path, environment=site)
    assert done.returncode == 0, done.stderr + done.stdout
    skipped = read_quarantine(RunFolder(locate(str(tmp_path / "runs/wild"))).quarantine)
    assert {(Path(sample.shard).parent.name, sample.key, sample.reason) for sample in skipped} == SKIPPED
