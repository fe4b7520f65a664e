"""Stored files as file objects."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.storage.location import locate
from orchestrator.storage.range_reader import open_stored
from orchestrator.storage.retry import StorageError

CONTENT = bytes(range(256)) * 40


@pytest.mark.parametrize("buffer_bytes", [1, 100, 1_000_000])
def test_reading_and_seeking(tmp_path: Path, buffer_bytes: int) -> None:
    place = locate(str(tmp_path)) / "x"
    place.write(CONTENT)
    with open_stored(place, buffer_bytes) as file:
        assert file.read(10) == CONTENT[:10]
        file.seek(-5, os.SEEK_END)
        assert file.read() == CONTENT[-5:]
        assert file.read() == b""
        file.seek(300)
        file.seek(7, os.SEEK_CUR)
        assert (file.tell(), file.read(500)) == (307, CONTENT[307:807])
        with pytest.raises(ValueError, match="seek"):
            file.seek(-1)


def test_libraries_read_from_it(tmp_path: Path) -> None:
    folder = locate(str(tmp_path))
    table = pa.table({"key": [str(number) for number in range(1000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=100)
    (folder / "x.parquet").write(sink.getvalue().to_pybytes())
    with open_stored(folder / "x.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(3) == table.slice(300, 100)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        member = tarfile.TarInfo("name")
        member.size = len(CONTENT)
        writer.addfile(member, io.BytesIO(CONTENT))
    (folder / "x.tar").write(archive.getvalue())
    with open_stored(folder / "x.tar") as file, tarfile.open(fileobj=file) as reader:
        assert reader.getnames() == ["name"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gone: cannot be read: it does not exist"):
        open_stored(locate(str(tmp_path)) / "gone")
