"""A corpus in a destination that holds something already."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from annotated import stored
from shards import samples, write_shards

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.shards.corpus import build
from workloads.contract import Example


class Stop(Exception):
    """Stands for whatever ends a build."""


def test_a_corpus_is_not_built_over_what_is_someone_elses(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/thesis.txt").write_text("years of work")
    with pytest.raises(DataSetError, match=r"train: is not empty \(thesis.txt\) and was not begun by this command"):
        write_shards(str(tmp_path), 2)
    with pytest.raises(DataSetError, match="was not begun"):
        write_shards(str(tmp_path), 2)
    assert (tmp_path / "train/thesis.txt").read_text() == "years of work"
    (tmp_path / "other").mkdir()
    for content in ('{"scripts": {}}', '{"source": {}, "result": {}}', "[1]", "not json"):
        (tmp_path / "other/build.json").write_text(content)
        with pytest.raises(DataSetError, match=r"build.json: is no record of a corpus"):
            write_shards(str(tmp_path / "other"), 2)
        assert (tmp_path / "other/build.json").read_text() == content


def test_a_corpus_whose_build_was_stopped_is_built_again(tmp_path: Path) -> None:
    def stopped() -> Iterator[Example]:
        yield Example("train", next(samples(1)))
        raise Stop

    with pytest.raises(Stop):
        build(stopped, {"count": "3"}, locate(str(tmp_path)), "webdataset", 1)
    assert not build(lambda: (), {"count": "2"}, locate(str(tmp_path)), "webdataset", 1).up_to_date
    write_shards(str(tmp_path), 3)
    assert len(stored(tmp_path / "train")) == 3
