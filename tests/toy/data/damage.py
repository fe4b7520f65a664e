"""Small data sets made of given samples, and damage done to their files."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from shards import index_folder

from orchestrator.storage.location import locate
from orchestrator.stream.dataset import webdataset
from orchestrator.stream.dataset.index import ShardFormat
from orchestrator.stream.dataset.parquet import write_parquet
from workloads.contract import Sample

SUFFIXES = {"webdataset": "tar", "parquet": "parquet"}


def write_data_set(folder: Path, shards: Sequence[Sequence[Sample]], shard_format: ShardFormat) -> Path:
    """Write each list of samples as a shard, and index them; return the folder."""
    encode = webdataset.write if shard_format == "webdataset" else write_parquet
    folder.mkdir(parents=True)
    for number, samples in enumerate(shards):
        shard_file(folder, number, shard_format).write_bytes(encode(samples))
    index_folder(locate(str(folder)))
    return folder


def shard_file(folder: Path, number: int, shard_format: ShardFormat) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:06d}.{SUFFIXES[shard_format]}"


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's bytes."""
    path.write_bytes(change(path.read_bytes()))


def flipped(content: bytes, place: int) -> bytes:
    """The bytes with one of them inverted."""
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def photo(side: int = 64) -> bytes:
    """A JPEG with enough detail to be cut short."""
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 80).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be an image of this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + struct.pack(">I", 0) + b"IDAT"
