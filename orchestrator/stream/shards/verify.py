"""Verifies a data set: every shard, then the keys of all of them together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
from pyarrow import fs

from orchestrator.config.errors import ConfigError
from orchestrator.storage.location import Location, locate
from orchestrator.storage.range_reader import OBJECT_STORE_READERS
from orchestrator.storage.retry import StorageError, retrying
from orchestrator.stream.dataset import sidecar
from orchestrator.stream.dataset.index import INDEX_NAME, DataSetError, Index, ShardFacts
from orchestrator.stream.shards.checks import (
    CheckJob,
    Checks,
    Finding,
    Keys,
    ShardResult,
    check_shard,
    check_size,
    duplicates,
)
from orchestrator.stream.shards.executors import Mapper

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


# What a verification has found so far, kept on disk so that it can be taken up again, and its report.


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where the line of a finished shard lies in the state file, and the state of the shard it speaks of."""

    offset: int
    stamp: str


class VerifyRecord:
    """The shards that are finished, one JSON line each in a file beside the report.

    Memory does not grow with the findings: they stay in the file.

    Args:
        report: the report that is to be written.
        data_set: URI of the data set.
        checks: how closely samples are looked at; a record of other checks is begun anew.
        again: begin anew in any case.

    Raises:
        ConfigError: the record beside the report is of another data set.
        StorageError: it cannot be read or written.
    """

    def __init__(self, report: Path, data_set: str, checks: Mapping[str, Any], again: bool = False) -> None:
        self.path = report.with_name(f"{report.name}.state")
        self._about = {"data_set": data_set, "checks": dict(checks)}
        self._entries: dict[str, _Entry] = {}
        draft = report.with_name(f".{self.path.name}.draft")
        try:
            report.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = draft.open("w+b")
            self._write(self._about)
            for line in () if again else self._lines():
                self._keep(line)
            self._file.flush()
            draft.replace(self.path)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror}).") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def has(self, shard: str, stamp: str) -> bool:
        """Return whether a shard is finished in its present state."""
        return shard in self._entries and self._entries[shard].stamp == stamp

    def add(self, result: ShardResult) -> None:
        """Remember a finished shard."""
        found = [[finding.key, finding.kind, finding.detail] for finding in result.findings]
        self._keep({"shard": result.name, "stamp": result.stamp, "samples": result.samples, "findings": found})
        self._file.flush()

    def findings(self, shard: str) -> Iterator[Finding]:
        """Yield what was found in a finished shard."""
        self._file.seek(self._entries[shard].offset)
        for key, kind, detail in json.loads(self._file.readline())["findings"]:
            yield Finding(shard, key, kind, detail)

    def _keep(self, line: Mapping[str, Any]) -> None:
        self._entries[line["shard"]] = _Entry(self._write(line), line["stamp"])

    def _write(self, line: Mapping[str, Any]) -> int:
        offset = self._file.seek(0, 2)
        self._file.write(json.dumps(line).encode() + b"\n")
        return offset

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of an earlier record that still count; the last may have been cut off."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            lines = (self._parsed(line) for line in file if line.endswith(b"\n"))
            about = next(lines, self._about)
            if about.get("data_set") != self._about["data_set"]:
                raise ConfigError(
                    f"{self.path}: is not of {self._about['data_set']}; name another --report, or remove it."
                )
            if about == self._about:
                yield from lines

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{self.path}: is not the record of a verification; name another --report, or remove it."
            ) from error


def write_report(report: Path, findings: Iterable[Finding], about: Mapping[str, Any]) -> dict[str, int]:
    """Write the findings as JSON lines, and a summary beside them; both are there whole or not at all.

    Args:
        report: the file of findings; the summary has the same name, ending in `.summary.json`.
        findings: in the order in which they are to stand.
        about: what else the summary says.

    Returns:
        How many findings there are of each kind.
    """
    counts: Counter[str] = Counter()
    draft = report.with_name(f".{report.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as file:
            for finding in findings:
                counts[finding.kind] += 1
                file.write(json.dumps(finding.as_json()) + "\n")
        draft.replace(report)
    except OSError as error:
        raise StorageError(f"{report}: cannot be written ({error.strerror}).") from error
    finally:
        draft.unlink(missing_ok=True)
    summary = {**about, "findings": dict(sorted(counts.items()))}
    locate(str(summary_of(report))).write(json.dumps(summary, indent=2).encode())
    return dict(sorted(counts.items()))


def summary_of(report: Path) -> Path:
    """Return where the summary of a report is."""
    return report.with_name(f"{report.name}.summary.json")
