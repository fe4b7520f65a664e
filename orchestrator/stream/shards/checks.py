"""Checks one shard: its file, its sidecar and every sample in it; and finds duplicate keys across shards.

Findings are values; the checks that make them are pure functions, apart from reading.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.storage.location import Location, locate
from orchestrator.stream.dataset import sidecar
from orchestrator.stream.dataset.columns import Columns
from orchestrator.stream.dataset.images import MAX_PIXELS, MAX_SIDE, SizeLimit
from orchestrator.stream.dataset.index import DataSetError, HashingReader, Index, ShardFacts, ShardFormat, build_index
from orchestrator.stream.dataset.judgement import image_fault
from orchestrator.stream.dataset.samples import ShardRows, read_samples
from orchestrator.stream.dataset.sidecar import Content, Unreadable, read_sidecar
from orchestrator.stream.order.sample_order import Ids
from workloads.contract import BadSample, Sample

MAX_CAPTION_WORDS = 256
"""Longer captions are usually pages or lists in the wrong field."""

ROWS_AT_ONCE = 256

DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""The exceptions of Parquet's decoders for damage."""

BUCKET_SAMPLES = 4_000_000
"""Approximate number of samples whose hashes are sorted at once, in a quarter of a gigabyte."""

HASH_BYTES = 16
"""With 128 bits, two keys out of 1e9 have the same hash with a probability of 1e-21."""

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<i8")])

Keys = tuple[int, pa.Array]
"""Number of a shard in the index, and the keys of its samples in order."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of a data set.

    Args:
        shard: name of the shard.
        key: of the sample; empty for a fault of the whole shard.
        kind: class of fault; for a sample, the reason for which training would skip it.
        detail: for the user.
    """

    shard: str
    key: str
    kind: str
    detail: str

    def as_json(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Checks:
    """Options of the checks of samples.

    Args:
        decode: decode every image; otherwise read only its header.
        max_pixels: limit of an image's width times height.
        max_side: limit of an image's width and height, in pixels.
        max_caption_words: limit of a caption's length, in words.
    """

    decode: bool = True
    max_pixels: int = MAX_PIXELS
    max_side: int = MAX_SIDE
    max_caption_words: int = MAX_CAPTION_WORDS

    @property
    def size_limit(self) -> SizeLimit:
        """The largest image allowed."""
        return SizeLimit(self.max_pixels, self.max_side)

    def as_json(self) -> dict[str, Any]:
        """Return the checks as plain values."""
        return asdict(self)


def check_size(shard: str, indexed: int, actual: int | None) -> Iterator[Finding]:
    """Compare the size of a shard's file with the index.

    Args:
        shard: its name.
        indexed: bytes in the index.
        actual: bytes now; None when there is no file.
    """
    if actual is None:
        yield Finding(shard, "", "shard is missing", f"{indexed} bytes when it was indexed")
    elif actual < indexed:
        yield Finding(shard, "", "shard is shorter", f"{actual} bytes, {indexed} when it was indexed")
    elif actual > indexed:
        yield Finding(shard, "", "shard has grown", f"{actual} bytes, {indexed} when it was indexed")


def check_digest(shard: str, indexed: str, actual: str) -> Iterator[Finding]:
    """Compare the digest of a shard's file, whose size is right, with the index."""
    if actual != indexed:
        yield Finding(shard, "", "shard has changed", f"digest {actual}, {indexed} when it was indexed")


def check_samples(shard: str, indexed: int, actual: int, counted_in: str) -> Iterator[Finding]:
    """Compare the number of samples in a shard's sidecar or footer with the index."""
    if actual != indexed:
        yield Finding(shard, "", "samples disagree with the index", f"{actual} in {counted_in}, {indexed} in the index")


def check_content(shard: str, content: Content, checks: Checks) -> Iterator[Finding]:
    """Check the content of one row."""
    fault = image_fault(content, checks.decode, checks.size_limit)
    captions = () if isinstance(content, Unreadable) else _caption_faults(content, checks.max_caption_words)
    for each in (*captions, *([fault] if fault else [])):
        yield Finding(shard, content.key, each.reason, each.detail)


def _caption_faults(sample: Sample, max_words: int) -> Iterator[BadSample]:
    for number, caption in enumerate(sample.captions, start=1):
        words = len(caption.split())
        which = f"caption {number} of {len(sample.captions)}"
        if words == 0:
            yield BadSample("caption is empty", which)
        elif words > max_words:
            yield BadSample("caption is too long", f"{which}: {words} words, the limit is {max_words}")


@dataclass(frozen=True, slots=True)
class CheckJob:
    """A shard to check.

    Args:
        folder: the data set.
        facts: the shard's entry in the index.
        format: of the shard.
        columns: for Parquet shards, the columns by role.
        stamp: identifies the present state of the files.
        checks: options.
    """

    folder: Location
    facts: ShardFacts
    format: ShardFormat
    columns: Mapping[str, str]
    stamp: str
    checks: Checks

    @property
    def name(self) -> str:
        """File name of the shard."""
        return self.facts.shard


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The faults of a shard, and the number of samples and bytes checked."""

    name: str
    stamp: str
    samples: int
    bytes: int
    findings: tuple[Finding, ...]


def check_shard(job: CheckJob) -> ShardResult:
    """Read a shard once, by way of a temporary copy unless it is local, and check all of it.

    Raises:
        StorageError: the store is failing; nothing is known about the shard.
    """
    shard = job.folder / job.name
    with TemporaryDirectory(prefix="fuseray-verify-") as scratch:
        copy = shard if shard.is_local else locate(f"{scratch}/{job.name}")
        reader = HashingReader(shard)
        reader.drain(None if shard.is_local else Path(copy.path))
        digest, size = reader.digest(), reader.size
        findings = list(check_size(job.name, job.facts.bytes, size))
        findings = findings or list(check_digest(job.name, job.facts.digest, digest))
        rows, faults = _sidecar(job, shard, copy)
        findings += faults
        findings += _tar_faults(job, copy, rows) if job.format == "webdataset" else _parquet_faults(job, copy)
    return ShardResult(job.name, job.stamp, job.facts.samples, size, tuple(findings))


def _sidecar(job: CheckJob, shard: Location, copy: Location) -> tuple[int, list[Finding]]:
    """Copy a shard's sidecar next to the copy of the shard; return its number of samples, and its faults."""
    original = sidecar.sidecar_location(shard)
    if original.size() is None:
        return 0, [Finding(job.name, "", "sidecar is missing", f"{original.name}; index the shards again")]
    if copy != shard:
        sidecar.sidecar_location(copy).write(original.read())
    try:
        rows = len(sidecar.read_sidecar(copy).keys)
    except DataSetError as error:
        return 0, [Finding(job.name, "", "sidecar is damaged", str(error))]
    return rows, list(check_samples(job.name, job.facts.samples, rows, "its sidecar"))


def _tar_faults(job: CheckJob, copy: Location, rows: int) -> Iterator[Finding]:
    for start in range(0, rows, ROWS_AT_ONCE):
        yield from _row_faults(job, copy, range(start, min(start + ROWS_AT_ONCE, rows)))


def _parquet_faults(job: CheckJob, copy: Location) -> Iterator[Finding]:
    """Check row group by row group; an unreadable one is one finding."""
    try:
        file = pq.ParquetFile(copy.path)
    except DAMAGE as error:
        yield Finding(job.name, "", "shard is unreadable", f"all {job.facts.samples} samples: {error}")
        return
    with file:
        yield from check_samples(job.name, job.facts.samples, file.metadata.num_rows, "its footer")
        columns, present = Columns(**job.columns).names, Counter(file.schema_arrow.names)
        if wrong := [name for name in columns if present[name] != 1]:
            kind = "column is repeated" if present[wrong[0]] else "column is missing"
            yield Finding(job.name, "", kind, ", ".join(sorted(wrong)))
            return
        stop = 0
        for group in range(file.num_row_groups):
            start, stop = stop, stop + file.metadata.row_group(group).num_rows
            try:
                file.read_row_group(group, columns=columns).validate()
            except DAMAGE as error:
                yield Finding(job.name, "", "row group is unreadable", f"rows {start} to {stop - 1}: {error}")
            else:
                yield from _row_faults(job, copy, range(start, stop))


def _row_faults(job: CheckJob, copy: Location, rows: range) -> Iterator[Finding]:
    (contents,) = read_samples(job.folder, build_index([job.facts], job.format, job.columns), [ShardRows(copy, rows)])
    for content in contents:
        yield from check_content(job.name, content, job.checks)


def find_duplicates(folder: Location, index: Index, keys: Iterable[Keys], scratch: Path) -> Iterator[Finding]:
    """Find samples whose key an earlier sample of the data set has, in bounded memory.

    Hashes of the keys are written to buckets on disk, which are sorted one by one.

    Args:
        folder: the data set.
        index: its index.
        keys: of the readable shards, each as many as in the index.
        scratch: an empty folder for the hashes, 24 bytes per sample.

    Raises:
        StorageError: the sidecar of a shard with duplicates cannot be read again.
    """
    buckets = -(-index.total // BUCKET_SAMPLES)
    _spill(index, keys, scratch, buckets)
    for bucket in range(buckets):
        path = scratch / str(bucket)
        if path.exists():
            yield from _findings(folder, index, repeated_numbers(np.fromfile(path, RECORD)))


def repeated_numbers(records: NDArray[np.void]) -> dict[int, int]:
    """Return the number of every sample whose hash a sample of a lower number has, and the lowest such number."""
    order = np.lexsort((records["number"], records["low"], records["high"]))
    high, low, number = (records[name][order] for name in ("high", "low", "number"))
    is_first = np.ones(len(records), dtype=bool)
    is_first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    first = number[is_first][np.cumsum(is_first) - 1]
    return dict(sorted(zip(number[~is_first].tolist(), first[~is_first].tolist(), strict=True)))


def hash_records(keys: pa.Array, numbers: Ids) -> NDArray[np.void]:
    """Return records of the hashes of keys and the numbers of their samples."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest() for key in keys.to_pylist())
    halves = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    hashed = np.empty(len(keys), RECORD)
    hashed["high"], hashed["low"], hashed["number"] = halves[:, 0], halves[:, 1], numbers
    return hashed


def _spill(index: Index, keys: Iterable[Keys], scratch: Path, buckets: int) -> None:
    for shard, of_shard in keys:
        hashed = hash_records(of_shard, np.arange(index.starts[shard], index.starts[shard + 1]))
        bucket_of = hashed["high"] % buckets
        for bucket in np.unique(bucket_of):
            with (scratch / str(bucket)).open("ab") as file:
                file.write(hashed[bucket_of == bucket].tobytes())


def _findings(folder: Location, index: Index, first_of: Mapping[int, int]) -> Iterator[Finding]:
    numbers = np.array(list(first_of), dtype=np.int64)
    shards, rows = index.find(numbers)
    first_shards, first_rows = index.find(np.array(list(first_of.values()), dtype=np.int64))
    for shard in np.unique(shards).tolist():
        name = index.shards[shard]
        sidecar = read_sidecar(folder / name)
        for i in np.flatnonzero(shards == shard).tolist():
            detail = f"row {rows[i]}; first in {index.shards[first_shards[i]]}, row {first_rows[i]}"
            yield Finding(name, sidecar.key(int(rows[i])), "key is a duplicate", detail)
