"""`fuseray shards build` and `fuseray shards index` as a user meets them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated import stored, write_list
from click import UsageError
from click.testing import CliRunner, Result
from retrieval_lists import albef_rows, coco_image, document, write_json
from shards import picture, write_shards

from orchestrator.cli.main import cli
from orchestrator.config.errors import ConfigError
from orchestrator.storage.retry import StorageError
from orchestrator.stream.dataset.index import DataSetError

LIMITED = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fuseray(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("shards", *arguments), standalone_mode=False)


def done(*arguments: str) -> str:
    result = fuseray(*arguments)
    assert result.exception is None, result.exception
    return result.stdout


def test_build_says_what_it_made_and_what_it_left_out(tmp_path: Path) -> None:
    write_list(tmp_path, 12, missing=(5,))
    arguments = ("build", "list.json", "out", "--samples-per-shard", "5", "--max-bad-share", "0.1")
    said = done(*arguments)
    assert "1 rejected (1 image is missing); they are listed in" in said
    assert "11 samples in 3 shards; the index is" in said
    assert len(stored(tmp_path / "out")) == 11
    again = json.loads(done(*arguments, "--json"))
    assert (again["samples"], again["shards"], again["rejected"]) == (11, 3, {"image is missing": 1})


def test_build_says_that_images_are_listed_more_than_once(tmp_path: Path) -> None:
    write_list(tmp_path, 2)
    entries = json.loads((tmp_path / "list.json").read_text())
    (tmp_path / "list.json").write_text(json.dumps(entries * 2))
    assert "2 entries name an image that an earlier one names" in done("build", "list.json", "out")


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_a_split_of_karpathys_is_built_and_inspect_shows_the_ids(tmp_path: Path, shard_format: str) -> None:
    write_json(tmp_path, document(*(coco_image(number) for number in range(5))), "dataset_coco.json")
    said = done("build", "dataset_coco.json", "out", "--split", "train", "--format", shard_format)
    assert "3 samples in 1 shards" in said
    shown = json.loads(done("inspect", "out", "--json"))["samples"]
    assert [(one["key"], one["fields"]["image_id"], len(one["captions"])) for one in shown] == [
        ("val2014/0", 1000, 3),
        ("val2014/1", 1001, 2),
        ("val2014/4", 1004, 2),
    ]
    assert '"image_id": 1001' in done("inspect", "out")
    assert "2 samples in" in done("build", "dataset_coco.json", "two", "--split", "train", "--no-restval")


@pytest.mark.parametrize(("unit", "samples"), [("entry", 4), ("image", 2), ("caption", 4)])
def test_albefs_rows_are_built_as_they_are_or_per_image(tmp_path: Path, unit: str, samples: int) -> None:
    write_json(tmp_path, [*albef_rows(0), *albef_rows(1)])
    assert f"{samples} samples in" in done("build", "list.json", "out", "--samples-per", unit)


def test_build_from_a_folder_as_parquet(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.png").write_bytes(picture(number))
        (tmp_path / f"in/{number}.txt").write_text(f"photo {number}")
    for name in ("old.GIF", "list.tsv", "README", "in.dir.gif"):
        (tmp_path / "in" / name).write_text("x")
    said = done("build", "in", "out", "--format", "parquet")
    assert "not taken: 1 no suffix, 2 .gif, 1 .tsv; images are .jpg" in said
    assert [sample.captions for sample in stored(tmp_path / "out")] == [(f"photo {number}",) for number in range(3)]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["build", "nowhere", "out"], StorageError, "nowhere: does not exist; name a folder of images, or files"),
        (["build", "nowhere.json", "out"], StorageError, "nowhere.json: does not exist"),
        (["build", "list.json", "photos", "out"], ConfigError, "photos is a folder; name one folder, or any number of"),
        (["build", "photos", "out", "--image-root", "x"], ConfigError, "--image-root: belongs to annotation files"),
        (["build", "photos", "out", "--split", "test"], ConfigError, "--split: belongs to annotation files"),
        (["build", "photos", "out", "--samples-per", "image"], ConfigError, "--samples-per: belongs to annotation"),
        (["build", "list.json", "out", "--split", "test"], DataSetError, "leave --split out for a file of one split"),
        (["build", "photos", "list.json"], ConfigError, "list.json: is a file; DEST, the last argument, is the folder"),
        (["build", "photos/000.png", "out"], DataSetError, "000.png: is not UTF-8 text"),
        (["build", "out"], UsageError, "Missing parameter: sources"),
        (["build", "a", "out", "--max-bad-share", "2"], UsageError, "2.0 is not in the range"),
        (["build", "photos", "photos/out"], ConfigError, "photos/out: is in the folder that the images are in"),
        (["index", "photos", "--ray", "127.0.0.1:9"], ConfigError, "--ray: nothing answers at 127.0.0.1:9"),
        (["build", "list.json", "ftp://x/y"], StorageError, "unknown kind of storage 'ftp'"),
        (["index", "photos"], DataSetError, "has no .tar or .parquet shards"),
    ],
)
def test_what_is_wrong_is_explained(tmp_path: Path, arguments: list[str], kind: type[Exception], message: str) -> None:
    write_list(tmp_path, 1)
    result = fuseray(*arguments)
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


INTERRUPTED = """\
import os, signal, sys
from orchestrator.cli.main import main
from orchestrator.storage.jsonl_log import JsonlLog

add = JsonlLog.add
def add_and_interrupt(self, note):
    add(self, note)
    os.kill(os.getpid(), signal.SIGINT)

JsonlLog.add = add_and_interrupt
main()
"""


@pytest.mark.parametrize("verb", ["build", "index"])
def test_ctrl_c_says_how_to_go_on_and_keeps_what_is_done(tmp_path: Path, verb: str) -> None:
    if verb == "build":
        write_list(tmp_path, 30)
        arguments = ["shards", "build", "list.json", "out", "--samples-per-shard", "5"]
    else:
        (Path(write_shards(str(tmp_path / "made"), 30, per_shard=5)) / "index.parquet").unlink()
        (tmp_path / "made/train").rename(tmp_path / "out")
        arguments = ["shards", "index", "out"]
    command = [sys.executable, "-c", INTERRUPTED, *arguments]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=400, env=LIMITED)
    assert stopped.returncode == 128 + signal.SIGINT, stopped.stderr
    assert "interrupted; run" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "out/index.parquet").exists()
    assert list((tmp_path / "out" / {"build": ".building", "index": ".indexing"}[verb]).iterdir())
    assert "30 samples in 6 shards" in done(*arguments[1:])
    assert len(stored(tmp_path / "out")) == 30


def test_index_leaves_damaged_shards_out_when_told_to(tmp_path: Path) -> None:
    folder = Path(write_shards(str(tmp_path), 30, per_shard=10))
    (folder / "shard-000002.tar").write_bytes(b"junk" * 500)
    refused = fuseray("index", str(folder))
    assert isinstance(refused.exception, DataSetError)
    assert "1 of 3 shards are damaged, for example shard-000002.tar" in str(refused.exception)
    found = json.loads(done("index", str(folder), "--skip-damaged", "--json"))
    assert (found["samples"], [one["shard"] for one in found["damaged"]]) == (20, ["shard-000002.tar"])


def test_index_with_columns_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    pq.write_table(pa.table({"pic": [picture(0)], "said": ["a patch"]}), tmp_path / "mine/a.parquet")
    done("index", "mine", "--image-column", "pic", "--captions-column", "said")
    (sample,) = stored(tmp_path / "mine")
    assert (sample.image, sample.captions) == (picture(0), ("a patch",))


def test_help_lists_the_verbs_without_heavy_imports() -> None:
    heavy = "('pyarrow', 'ray', 'torch', 'numpy')"
    code = f"import sys, orchestrator.cli.shards.build; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.stdout.strip() == "[]", found.stderr
    assert all(verb in done("--help") for verb in ("build", "index", "inspect", "verify", "stats"))
