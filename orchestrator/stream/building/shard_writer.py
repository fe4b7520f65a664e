"""Writes samples as one shard with its sidecar."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from orchestrator.storage.location import Location
from orchestrator.stream.data_set import tar
from orchestrator.stream.data_set.captions import words_of
from orchestrator.stream.data_set.index import ShardFormat
from orchestrator.stream.data_set.parquet import Columns, write_parquet
from orchestrator.stream.data_set.sidecar import Entry, write_sidecar
from orchestrator.stream.indexing.shard_facts import ShardFacts, digest_of
from workloads.contract import Sample

SUFFIXES = {"webdataset": "tar", "parquet": "parquet"}


def shard_name(number: int, shard_format: ShardFormat) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.{SUFFIXES[shard_format]}"


def written_columns(shard_format: ShardFormat) -> Mapping[str, str]:
    """Return which column holds what in the Parquet shards that `write_shard` writes; nothing for tar shards."""
    columns = Columns(image="image", address="", captions="captions", key="key", fields="fields")
    return columns.as_mapping() if shard_format == "parquet" else {}


def write_shard(shard: Location, samples: Sequence[Sample], shard_format: ShardFormat) -> ShardFacts:
    """Write a shard and its sidecar; each is there whole or not at all.

    Raises:
        StorageError: they cannot be written.
    """
    if shard_format == "webdataset":
        content = tar.write(samples)
        entries = list(tar.scan(io.BytesIO(content)))
    else:
        content = write_parquet(samples)
        entries = [
            Entry(sample.key, row, len(sample.image), words_of(sample.captions)) for row, sample in enumerate(samples)
        ]
    shard.write(content)
    write_sidecar(shard, entries)
    return ShardFacts(shard.name, len(samples), len(content), digest_of(content))
