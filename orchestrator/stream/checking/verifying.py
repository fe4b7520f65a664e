"""Verifies a data set: every shard, then the keys of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from pyarrow import fs

from orchestrator.storage.location import Location
from orchestrator.storage.range_reader import OBJECT_STORE_READERS
from orchestrator.storage.retry import retrying
from orchestrator.stream.checking.duplicates import Keys, duplicates
from orchestrator.stream.checking.shard_check import CheckJob, ShardResult, check_shard
from orchestrator.stream.checking.verification import Checks, Finding, check_size
from orchestrator.stream.checking.verify_record import VerifyRecord
from orchestrator.stream.data_set import sidecar
from orchestrator.stream.data_set.index import DataSetError, Index
from orchestrator.stream.data_set.index_file import INDEX_NAME
from orchestrator.stream.indexing.parallel import Mapper
from orchestrator.stream.indexing.shard_facts import ShardFacts

SIDECARS_AT_ONCE = 256


class Verification:
    """The verification of one data set, as it stood when this was made.

    Args:
        folder: the data set.
        index: its index.
        checks: how closely to look at samples.
        record: remembers what is finished.

    Raises:
        StorageError: the data set cannot be listed.
    """

    def __init__(self, folder: Location, index: Index, checks: Checks, record: VerifyRecord) -> None:
        self._folder = folder
        self._index = index
        self._checks = checks
        self._record = record
        self._files = _files(folder)

    @cached_property
    def present(self) -> int:
        """Shards of the index that are there."""
        return sum(name in self._files for name in self._index.shards)

    def finished(self) -> int:
        """Return how many shards need not be read any more."""
        return sum(self._is_finished(shard) for shard in range(len(self._index.shards)))

    def run(self, mapper: Mapper, progress: Callable[[ShardResult], None] = lambda _: None) -> None:
        """Look at the shards that are not finished; after an interruption, call again.

        Args:
            mapper: shares out the shards.
            progress: called with each shard's result.

        Raises:
            StorageError: the store is failing; what is finished is kept.
            WorkerError: a worker died; what is finished is kept.
        """
        unfinished = (shard for shard in range(len(self._index.shards)) if self._is_outstanding(shard))
        for result in mapper(check_shard, map(self._job, unfinished)):
            self._record.add(result)
            progress(result)

    def findings(self) -> Iterator[Finding]:
        """Yield what is known of the shards so far, in the order of the index, then of files beside them."""
        for shard, name in enumerate(self._index.shards):
            if name not in self._files:
                yield from check_size(name, int(self._index.bytes[shard]), None)
            elif self._is_finished(shard):
                yield from self._record.findings(name)
        yield from self._unindexed()

    def duplicate_keys(self) -> Iterator[Finding]:
        """Yield the samples whose key an earlier sample has, in all shards that have a readable sidecar.

        Raises:
            StorageError: the store is failing.
        """
        with TemporaryDirectory(prefix="fuseray-keys-") as scratch:
            yield from duplicates(self._folder, self._index, self._keys(), Path(scratch))

    def _is_finished(self, shard: int) -> bool:
        name = self._index.shards[shard]
        return name in self._files and self._record.has(name, self._stamp(shard))

    def _is_outstanding(self, shard: int) -> bool:
        return self._index.shards[shard] in self._files and not self._is_finished(shard)

    def _facts(self, shard: int) -> ShardFacts:
        index = self._index
        digest = index.digests[shard].tobytes().hex()
        return ShardFacts(index.shards[shard], int(index.samples[shard]), int(index.bytes[shard]), digest)

    def _stamp(self, shard: int) -> str:
        """Return what stands for the present state of a shard's file, its sidecar and its line in the index."""
        facts = self._facts(shard)
        beside = self._files.get(facts.shard + sidecar.SUFFIX, "none")
        return f"{self._files[facts.shard]} {beside} {facts.samples} {facts.digest}"

    def _job(self, shard: int) -> CheckJob:
        return CheckJob(
            folder=self._folder,
            facts=self._facts(shard),
            format=self._index.format,
            columns=dict(self._index.columns),
            stamp=self._stamp(shard),
            checks=self._checks,
        )

    def _unindexed(self) -> Iterator[Finding]:
        suffix = ".tar" if self._index.format == "webdataset" else ".parquet"
        known = {INDEX_NAME, *self._index.shards}
        for name in sorted(self._files.keys() - known):
            if name.endswith(suffix) and not name.endswith(sidecar.SUFFIX):
                yield Finding(name, "", "shard is not in the index", "its samples are never used")

    def _keys(self) -> Iterator[Keys]:
        names = self._index.shards
        readable = [shard for shard, name in enumerate(names) if name + sidecar.SUFFIX in self._files]
        with ThreadPoolExecutor(OBJECT_STORE_READERS) as pool:
            for start in range(0, len(readable), SIDECARS_AT_ONCE):
                shards = readable[start : start + SIDECARS_AT_ONCE]
                for shard, keys in zip(shards, pool.map(self._keys_of, shards), strict=True):
                    if len(keys) == self._index.samples[shard]:
                        yield shard, keys

    def _keys_of(self, shard: int) -> pa.Array:
        try:
            return sidecar.read_sidecar(self._folder / self._index.shards[shard]).keys
        except DataSetError:
            return pa.array([], pa.string())


def _files(folder: Location) -> dict[str, str]:
    """Return the files of a folder, each with its size and time of change."""
    found = retrying(lambda: folder.requests.get_file_info(fs.FileSelector(folder.path)), folder.uri, "listed")
    return {info.base_name: f"{info.size} {info.mtime_ns}" for info in found if info.type == fs.FileType.File}
