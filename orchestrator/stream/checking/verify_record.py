"""What a verification has found so far, kept on disk so that it can be taken up again, and its report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from orchestrator.config.errors import SpecError
from orchestrator.storage.location import locate
from orchestrator.storage.retry import StorageError
from orchestrator.stream.checking.shard_check import ShardResult
from orchestrator.stream.checking.verification import Finding


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
        SpecError: the record beside the report is of another data set.
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
                raise SpecError(
                    f"{self.path}: is not of {self._about['data_set']}; name another --report, or remove it."
                )
            if about == self._about:
                yield from lines

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise SpecError(
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
