from __future__ import annotations

import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import flipped, rewrite, shard_file, write_data_set
from shards import index_folder
from verification import damage_samples, good, kinds, verify

from orchestrator.storage.location import locate
from orchestrator.stream.dataset import sidecar
from orchestrator.stream.dataset.index import ShardFormat
from orchestrator.stream.shards.checks import Checks

FORMATS: tuple[ShardFormat, ...] = ("webdataset", "parquet")


@pytest.fixture(params=FORMATS)
def shard_format(request: pytest.FixtureRequest) -> ShardFormat:
    result: ShardFormat = request.param
    return result


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "report.jsonl"


def test_a_sound_data_set_has_no_findings(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    assert verify(write_data_set(tmp_path / "data", good(), shard_format), report) == []


def test_bad_samples_are_found_by_kind(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    folder = write_data_set(tmp_path / "data", damage_samples(good()), shard_format)
    result = {(finding.key, finding.kind) for finding in verify(folder, report)}
    assert result == {
        ("s00000", "image is truncated"),
        ("s00001", "image is corrupt"),
        ("s00002", "image is too large"),
        ("s00003", "image is too large"),
        ("s00004", "caption is empty"),
        ("s00005", "caption is too long"),
        ("s00006", "caption is missing"),
    }


def test_an_empty_image_is_a_finding(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    shards = good()
    shards[1][3] = replace(shards[1][3], image=b"")
    (result,) = verify(write_data_set(tmp_path / "data", shards, shard_format), report)
    assert result.key == "s00011"
    assert result.kind in ("image is empty", "image is missing")


def test_without_decoding_only_headers_are_read(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    folder = write_data_set(tmp_path / "data", damage_samples(good()), shard_format)
    result = kinds(verify(folder, report, Checks(decode=False)))
    assert "image is truncated" not in result
    assert result["image is too large"] == 2


def test_limits_can_be_moved(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    folder = write_data_set(tmp_path / "data", good(1, 4), shard_format)
    result = verify(folder, report, Checks(max_pixels=24 * 23, max_caption_words=4))
    assert kinds(result) == {"image is too large": 4, "caption is too long": 4}


def test_a_missing_shard_and_a_new_one_are_found(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    folder = write_data_set(tmp_path / "data", good(), shard_format)
    shard_file(folder, 1, shard_format).rename(shard_file(folder, 7, shard_format))
    result = verify(folder, report)
    assert kinds(result) == {"shard is missing": 1, "shard is not in the index": 1}


def test_a_truncated_tar_names_the_lost_samples(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "webdataset")
    shard = shard_file(folder, 2, "webdataset")
    fifth = sidecar.read_sidecar(locate(str(shard))).offsets[5]
    rewrite(shard, lambda content: content[: fifth + 100])
    result = verify(folder, report)
    assert kinds(result) == {"shard is shorter": 1, "shard is truncated": 3}
    assert [finding.key for finding in result] == ["", "s00021", "s00022", "s00023"]


def test_a_truncated_parquet_file_is_one_finding_of_its_own(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "parquet")
    rewrite(shard_file(folder, 0, "parquet"), lambda content: content[:-200])
    assert kinds(verify(folder, report)) == {"shard is shorter": 1, "shard is unreadable": 1}


def test_a_grown_shard_is_found(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "webdataset")
    rewrite(shard_file(folder, 0, "webdataset"), lambda content: content + bytes(512))
    assert kinds(verify(folder, report)) == {"shard has grown": 1}


def test_flipped_bytes_change_the_digest_and_the_sample(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "webdataset")
    shard = shard_file(folder, 1, "webdataset")
    third = int(sidecar.read_sidecar(locate(str(shard))).offsets[3])
    rewrite(shard, lambda content: flipped(content, third + 10))
    result = verify(folder, report)
    assert [(finding.key, finding.kind) for finding in result] == [
        ("", "shard has changed"),
        ("s00011", "shard is corrupt"),
    ]


def test_a_flipped_page_of_parquet_costs_its_row_group(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "parquet")
    rewrite(shard_file(folder, 1, "parquet"), lambda content: content[:4] + bytes(60) + content[64:])
    assert kinds(verify(folder, report)) == {"shard has changed": 1, "row group is unreadable": 1}


def test_missing_and_damaged_sidecars_are_found(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    folder = write_data_set(tmp_path / "data", good(), shard_format)
    first, second = (Path(f"{shard_file(folder, number, shard_format)}{sidecar.SUFFIX}") for number in (0, 1))
    first.unlink()
    rewrite(second, lambda content: content[:-20])
    assert kinds(verify(folder, report)) == {"sidecar is missing": 1, "sidecar is damaged": 1}


def test_a_sidecar_of_another_shard_is_found(tmp_path: Path, report: Path) -> None:
    shards = good()
    shards[0] = shards[0][:-2]
    folder = write_data_set(tmp_path / "data", shards, "parquet")
    first, second = (f"{shard_file(folder, number, 'parquet')}{sidecar.SUFFIX}" for number in (0, 1))
    shutil.copy(first, second)
    assert "samples disagree with the index" in kinds(verify(folder, report))


def test_duplicate_keys_within_and_across_shards(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    shards = good()
    shards[0][5] = replace(shards[0][5], key="s00000")
    shards[2][1] = replace(shards[2][1], key="s00009")
    shards[2][7] = replace(shards[2][7], key="s00000")
    folder = write_data_set(tmp_path / "data", shards, shard_format)
    result = verify(folder, report)
    assert kinds(result) == {"key is a duplicate": 3}
    assert {(finding.shard[:12], finding.key) for finding in result} == {
        ("shard-000000", "s00000"),
        ("shard-000002", "s00009"),
        ("shard-000002", "s00000"),
    }
    assert all("first in shard-000000" in finding.detail for finding in result if finding.key == "s00000")


def test_images_by_address_are_looked_at(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "images", good(1, 3), "webdataset").parent
    for sample in good(1, 2)[0]:
        (folder / f"{sample.key}.png").write_bytes(sample.image)
    (folder / "s00001.png").write_bytes(b"damaged")
    table = pa.table({"url": ["s00000.png", "s00001.png", "s00002.png"], "text": ["one", "two", "three"]})
    pq.write_table(table, folder / "list.parquet")
    index_folder(locate(str(folder)))
    result = [(finding.key, finding.kind) for finding in verify(folder, report)]
    assert result == [("list.parquet:1", "image is corrupt"), ("list.parquet:2", "image is missing")]


def test_a_shard_that_lost_a_column_is_found(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "parquet")
    shard = shard_file(folder, 1, "parquet")
    pq.write_table(pq.read_table(shard).drop_columns(["captions"]), shard)
    assert kinds(verify(folder, report))["column is missing"] == 1


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_is_always_a_finding(tmp_path: Path, report: Path, shard_format: ShardFormat, seed: int) -> None:
    folder = write_data_set(tmp_path / "data", good(1, 8), shard_format)
    shard = shard_file(folder, 0, shard_format)
    places = random.Random(seed).sample(range(shard.stat().st_size), 40)
    for place in places:
        rewrite(shard, partial(flipped, place=place))
    assert kinds(verify(folder, report))["shard has changed"] == 1
