"""Verifies a data set: every shard, then the uniqueness of keys; progress is recorded so that it can be resumed."""

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
from orchestrator.storage.jsonl_log import encode_jsonl
from orchestrator.storage.local_files import replace_atomically
from orchestrator.storage.location import Location, locate
from orchestrator.storage.range_reader import OBJECT_STORE_READERS
from orchestrator.storage.retry import StorageError, retrying
from orchestrator.stream.dataset import sidecar
from orchestrator.stream.dataset.index import DataSetError, Index, ShardFacts, shard_format_of
from orchestrator.stream.dataset.shard_folder import in_data_set
from orchestrator.stream.shards.checks import (
    CheckJob,
    Checks,
    Finding,
    Keys,
    ShardResult,
    check_shard,
    check_size,
    find_duplicates,
)
from orchestrator.stream.shards.executors import Mapper

SIDECARS_AT_ONCE = 256


class Verification:
    """The verification of one data set, in its state at construction.

    Args:
        folder: the data set.
        index: its index.
        checks: options of the checks of samples.
        record: of the finished shards.

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
        """Number of shards of the index that exist."""
        return sum(name in self._files for name in self._index.shards)

    def finished(self) -> int:
        """Return the number of finished shards."""
        return sum(self._is_finished(shard) for shard in range(len(self._index.shards)))

    def run(self, mapper: Mapper, progress: Callable[[ShardResult], None] = lambda _: None) -> None:
        """Check the shards that are not finished; after an interruption, call again.

        Args:
            mapper: distributes the shards over workers.
            progress: called with each shard's result.

        Raises:
            StorageError: the store is failing; the record keeps finished shards.
            WorkerError: a worker died; the record keeps finished shards.
        """
        unfinished = (shard for shard in range(len(self._index.shards)) if self._is_outstanding(shard))
        for result in mapper(check_shard, map(self._job, unfinished)):
            self._record.add(result)
            progress(result)

    def findings(self) -> Iterator[Finding]:
        """Yield the findings so far, in the order of the index, then those of files that are not in it."""
        for shard, name in enumerate(self._index.shards):
            if name not in self._files:
                yield from check_size(name, int(self._index.bytes[shard]), None)
            elif self._is_finished(shard):
                yield from self._record.findings(name)
        yield from self._unindexed()

    def duplicate_keys(self) -> Iterator[Finding]:
        """Yield the samples whose key an earlier sample has, in all shards with a readable sidecar.

        Raises:
            StorageError: the store is failing.
        """
        with TemporaryDirectory(prefix="fuseray-keys-") as scratch:
            yield from find_duplicates(self._folder, self._index, self._keys(), Path(scratch))

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
        """Return a string that identifies the present state of a shard's file, sidecar and index entry."""
        facts = self._facts(shard)
        sidecar_state = self._files.get(facts.shard + sidecar.SUFFIX, "none")
        return f"{self._files[facts.shard]} {sidecar_state} {facts.samples} {facts.digest}"

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
        for name in sorted(self._files.keys() - set(self._index.shards)):
            if in_data_set(self._folder, name) and shard_format_of(name) == self._index.format:
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
    """Return the size and modification time of each file of a folder, by name."""
    selector = fs.FileSelector(folder.path)
    infos = retrying(lambda: folder.single_attempt_filesystem.get_file_info(selector), folder.uri, "listed")
    return {info.base_name: f"{info.size} {info.mtime_ns}" for info in infos if info.type == fs.FileType.File}


@dataclass(frozen=True, slots=True)
class _Entry:
    """The offset of a finished shard's line in the record, and the stamp of the shard."""

    offset: int
    stamp: str


class VerifyRecord:
    """The finished shards with their findings, as JSON lines in the file REPORT.state.

    The findings stay in the file, so that memory does not grow with them.

    Args:
        report: the report that will be written.
        data_set: URI of the data set.
        checks: options of the checks; a record with other options is discarded.
        again: discard an existing record.

    Raises:
        ConfigError: the record is of another data set.
        StorageError: it cannot be read or written.
    """

    def __init__(self, report: Path, data_set: str, checks: Mapping[str, Any], again: bool = False) -> None:
        self.path = report.with_name(f"{report.name}.state")
        self._about = {"data_set": data_set, "checks": dict(checks)}
        self._entries: dict[str, _Entry] = {}
        try:
            report.parent.mkdir(parents=True, exist_ok=True)
            with replace_atomically(self.path) as draft:
                self._file: IO[bytes] = draft.open("w+b")
                self._append(self._about)
                for line in () if again else self._lines():
                    self._add_line(line)
                self._file.flush()
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror}).") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def has(self, shard: str, stamp: str) -> bool:
        """Return whether a shard is finished, with this stamp."""
        return shard in self._entries and self._entries[shard].stamp == stamp

    def add(self, result: ShardResult) -> None:
        """Add a finished shard."""
        findings = [[finding.key, finding.kind, finding.detail] for finding in result.findings]
        self._add_line({"shard": result.name, "stamp": result.stamp, "samples": result.samples, "findings": findings})
        self._file.flush()

    def findings(self, shard: str) -> Iterator[Finding]:
        """Yield the findings of a finished shard."""
        self._file.seek(self._entries[shard].offset)
        for key, kind, detail in json.loads(self._file.readline())["findings"]:
            yield Finding(shard, key, kind, detail)

    def _add_line(self, line: Mapping[str, Any]) -> None:
        self._entries[line["shard"]] = _Entry(self._append(line), line["stamp"])

    def _append(self, line: Mapping[str, Any]) -> int:
        offset = self._file.seek(0, 2)
        self._file.write(encode_jsonl([line]))
        return offset

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of an existing record if its options are the same; the last line may be truncated."""
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
    """Write the findings as JSON lines, and a summary; each file is written atomically.

    Args:
        report: the file of findings; the summary has the same name with the suffix `.summary.json`.
        findings: in the order of the report.
        about: further values of the summary.

    Returns:
        The number of findings of each kind.
    """
    counts: Counter[str] = Counter()
    try:
        with replace_atomically(report) as draft, draft.open("wb") as file:
            for finding in findings:
                counts[finding.kind] += 1
                file.write(encode_jsonl([finding.as_json()]))
    except OSError as error:
        raise StorageError(f"{report}: cannot be written ({error.strerror}).") from error
    summary = {**about, "findings": dict(sorted(counts.items()))}
    locate(str(summary_path(report))).write(json.dumps(summary, indent=2).encode())
    return dict(sorted(counts.items()))


def summary_path(report: Path) -> Path:
    """Return the path of a report's summary."""
    return report.with_name(f"{report.name}.summary.json")
