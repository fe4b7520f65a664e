"""Data sets to verify, and a verification in one call."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from damage import huge_png, photo
from shards import samples

from orchestrator.storage.location import Location, locate
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.shards.checks import Checks, Finding
from orchestrator.stream.shards.executors import Mapper, ProcessMapper
from orchestrator.stream.shards.verify import Verification, VerifyRecord
from workloads.contract import Sample

HERE = ProcessMapper(1)


def good(shards: int = 3, per_shard: int = 8) -> list[list[Sample]]:
    """Sound samples, by shard."""
    found = list(samples(shards * per_shard))
    return [found[start : start + per_shard] for start in range(0, len(found), per_shard)]


def verify(
    folder: Path | Location,
    report: Path,
    checks: Checks | None = None,
    mapper: Mapper = HERE,
    read: list[str] | None = None,
) -> list[Finding]:
    """Verify a data set; the names of the shards that were read go to `read`."""
    location = folder if isinstance(folder, Location) else locate(str(folder))
    checks = checks or Checks()
    with VerifyRecord(report, location.uri, checks.as_json()) as record:
        verification = Verification(location, read_index(location), checks, record)
        verification.run(mapper, lambda result: read.append(result.name) if read is not None else None)
        return [*verification.findings(), *verification.duplicate_keys()]


def kinds(findings: list[Finding]) -> Counter[str]:
    """How many findings there are of each kind."""
    return Counter(finding.kind for finding in findings)


def damage_samples(found: list[list[Sample]]) -> list[list[Sample]]:
    """The samples with seven bad ones in the first shard."""
    first = found[0]
    first[0] = replace(first[0], image=photo()[:900])
    first[1] = replace(first[1], image=b"no image at all")
    first[2] = replace(first[2], image=huge_png(30_000, 30_000))
    first[3] = replace(first[3], image=huge_png(20_000, 100))
    first[4] = replace(first[4], captions=("fine", "  \n"))
    first[5] = replace(first[5], captions=("word " * 300,))
    first[6] = replace(first[6], captions=())
    return found
