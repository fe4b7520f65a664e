"""Builds shards from image-text pairs in files; an interrupted build is resumed.

A shard is a function of the source and the shard's number alone: the usable items in its range. So shards are built
concurrently, and those that an earlier process finished are kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from orchestrator.storage.jsonl_log import JsonlLog, encode_jsonl
from orchestrator.storage.location import Location
from orchestrator.stream.dataset.index import DataSetError, ShardFacts, ShardFormat, build_index, write_index
from orchestrator.stream.shards.corpus import RECEIPT_NAME, shard_name, write_shard, written_columns
from orchestrator.stream.shards.executors import ThreadMapper
from orchestrator.stream.shards.index_shards import ShardProgress
from orchestrator.stream.shards.load_items import KeyedItem, SourceSummary, load_sample, summarize, with_unique_keys
from orchestrator.stream.shards.sources import Source
from workloads.contract import BadSample, Sample

LOG_NAME = ".building"
SHARDS_AT_ONCE = 2
"""One is read while another is written."""

REJECTED_NAME = "rejected.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Options of a build.

    Args:
        shard_format: format of the shards.
        samples_per_shard: items per shard, the unusable ones included.
        readers: files that are read concurrently.
        max_bad_share: share of the items that may be unusable, in [0, 1].
    """

    shard_format: ShardFormat = "webdataset"
    samples_per_shard: int = 1000
    readers: int = 16
    max_bad_share: float = 0.01


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build.

    Args:
        samples: number of samples.
        shards: number of shards.
        rejected: number of rejected items by reason.
        repeated_images: items whose image an earlier item has.
        left_out: kinds of files of the source that were not taken, and how many of each.
    """

    samples: int
    shards: int
    rejected: Mapping[str, int]
    repeated_images: int
    left_out: Mapping[str, int] = field(default_factory=dict)


def build_annotated(
    source: Source,
    destination: Location,
    options: BuildOptions,
    progress: Callable[[ShardProgress], None] = lambda _: None,
) -> BuildResult:
    """Build indexed shards, or resume a build of the same source and options; a finished one is left unchanged.

    Args:
        source: of the items.
        destination: gets the shards, their index and `rejected.jsonl`; empty, or begun by this function.
        options: of the build.
        progress: called after every shard.

    Raises:
        DataSetError: the source is malformed or empty, too much of it is bad, or the destination holds something else.
        StorageError: storage is failing.
    """
    receipt = BuildReceipt(destination, _made_of(source, options))
    if done := receipt.result():
        return BuildResult(**done)
    summary = summarize(source)
    if not summary.items:
        found = _described(source.left_out())
        raise DataSetError(
            f"{source.name}: has no images (.jpg, .jpeg, .png, .webp) and no captions{found and f', but {found}'}."
        )
    receipt.write(None)
    with JsonlLog(destination / LOG_NAME) as log:
        parts = _build_parts(source, summary, destination, options, log, progress)
        write_rejected(destination, parts)
        facts = [part.facts for part in parts if part.facts]
        write_index(destination, build_index(facts, options.shard_format, written_columns(options.shard_format)))
        samples = sum(shard.samples for shard in facts)
        result = BuildResult(samples, len(facts), _reasons(parts), summary.repeats, source.left_out())
        receipt.write(asdict(result))
        log.remove()
    return result


def _described(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _made_of(source: Source, options: BuildOptions) -> dict[str, str]:
    shape = {"format": options.shard_format, "samples_per_shard": str(options.samples_per_shard)}
    return {"source": source.digest(), **shape}


def _build_parts(
    source: Source,
    summary: SourceSummary,
    destination: Location,
    options: BuildOptions,
    log: JsonlLog,
    progress: Callable[[ShardProgress], None],
) -> list[Part]:
    """Build the shards that are missing; return all parts in order."""
    known = _finished(log, destination)
    count = -(-summary.items // options.samples_per_shard)
    parts: dict[int, Part] = {}
    samples = bad = 0
    with _Builder(source, destination, options, known) as builder:
        chunks = _chunks(with_unique_keys(source, summary), options.samples_per_shard)
        for part in ThreadMapper(SHARDS_AT_ONCE)(builder.part, enumerate(chunks)):
            parts[part.number] = part
            if part != known.get(part.number):
                log.add(part.as_json())
            samples, bad = samples + part.samples, bad + len(part.rejected)
            progress(ShardProgress(len(parts), count, samples, bad))
            if bad > options.max_bad_share * summary.items:
                write_rejected(destination, parts.values())
                raise DataSetError(_too_many_rejected(source, destination, parts.values(), summary.items, options))
    return [parts[number] for number in sorted(parts)]


class _Builder:
    """Builds shards, several concurrently, with a shared pool of readers that is shut down when the body ends."""

    def __init__(self, source: Source, destination: Location, options: BuildOptions, known: Mapping[int, Part]) -> None:
        self._source = source
        self._destination = destination
        self._options = options
        self._known = known
        self._readers = ThreadPoolExecutor(options.readers)

    def part(self, chunk: tuple[int, list[KeyedItem]]) -> Part:
        """Write the shard of some items; one that is there and has nothing left to repair is kept as it is."""
        number, items = chunk
        known = self._known.get(number)
        if known and not self._is_fixed(known, items):
            return known
        loaded = list(self._readers.map(self._load, items))
        samples = [sample for sample in loaded if isinstance(sample, Sample)]
        shard = self._destination / shard_name(number, self._options.shard_format)
        facts = write_shard(shard, samples, self._options.shard_format) if samples else None
        return Part(number, facts, tuple(item for item in loaded if isinstance(item, RejectedItem)))

    def _is_fixed(self, known: Part, items: list[KeyedItem]) -> bool:
        """Return whether an item that was rejected earlier is usable now."""
        rejected = {item.item for item in known.rejected}
        again = [item for item in items if item.number in rejected]
        return any(isinstance(loaded, Sample) for loaded in self._readers.map(self._load, again))

    def _load(self, keyed_item: KeyedItem) -> Sample | RejectedItem:
        item = keyed_item.item
        try:
            return load_sample(self._source, item, keyed_item.key)
        except BadSample as fault:
            return RejectedItem(keyed_item.number, keyed_item.key, item.image, fault.reason, fault.detail)

    def __enter__(self) -> _Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)


def _finished(log: JsonlLog, destination: Location) -> dict[int, Part]:
    """Return the parts of an earlier process whose shards still exist; delete its unfinished files."""
    sizes = destination.sizes()
    for name in sizes:
        if name.startswith(".shard-"):
            (destination / name).delete()
    parts = (Part.from_json(record) for record in log.read())
    return {
        part.number: part for part in parts if part.facts is None or sizes.get(part.facts.shard) == part.facts.bytes
    }


def _chunks(items: Iterator[KeyedItem], size: int) -> Iterator[list[KeyedItem]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _too_many_rejected(
    source: Source, destination: Location, parts: Collection[Part], items: int, options: BuildOptions
) -> str:
    reasons = _reasons(parts)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    first = min((item for part in parts for item in part.rejected), key=lambda item: item.item)
    return (
        f"{source.name}: at least {sum(reasons.values())} of {items} samples cannot be used ({counts}), more than "
        f"{options.max_bad_share:.1%}; the first is {first.key or f'item {first.item}'}: {first.reason}"
        f"{first.detail and f' ({first.detail})'}; they are listed in {(destination / REJECTED_NAME).uri}. Fix them, "
        "or allow more with --max-bad-share, and run the same command again: it resumes the build."
    )


def _reasons(parts: Iterable[Part]) -> dict[str, int]:
    return dict(Counter(item.reason for part in parts for item in part.rejected).most_common())


@dataclass(frozen=True, slots=True)
class RejectedItem:
    """An unusable item: its number in the source, key, path of the image, and the reason."""

    item: int
    key: str
    image: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Part:
    """One finished shard of a build.

    Args:
        number: of the shard.
        facts: its entry in the index; None when no item is usable, so that there is no shard.
        rejected: its unusable items.
    """

    number: int
    facts: ShardFacts | None
    rejected: tuple[RejectedItem, ...]

    @property
    def samples(self) -> int:
        """Samples in the shard."""
        return self.facts.samples if self.facts else 0

    def as_json(self) -> dict[str, Any]:
        """Return the part as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Part:
        """Build it from what `as_json` returned."""
        facts = values["facts"] and ShardFacts(**values["facts"])
        return cls(values["number"], facts, tuple(RejectedItem(**item) for item in values["rejected"]))


@dataclass(frozen=True, slots=True)
class BuildReceipt:
    """The file `build.json`: what a folder of shards is built from, and the result once the build is finished.

    Args:
        destination: the folder.
        made_of: everything that determines the shards.
    """

    destination: Location
    made_of: Mapping[str, str]

    def result(self) -> dict[str, Any] | None:
        """Return the result of a finished build, or None when it is unfinished or not begun.

        Raises:
            DataSetError: the folder holds something else.
        """
        file = self.destination / RECEIPT_NAME
        if file.size() is None:
            self._check_empty()
            return None
        try:
            content = json.loads(file.read())
            made_of, result = dict(content["source"]), dict(content.get("result", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise DataSetError(f"{file.uri}: is damaged ({error}); remove {self.destination.uri}.") from error
        changed = [name for name in self.made_of if made_of.get(name) != self.made_of[name]]
        if changed:
            differences = ", ".join(f"{name} {self.made_of[name]}, was {made_of.get(name)}" for name in changed)
            raise DataSetError(
                f"{self.destination.uri}: holds shards that are built from something else ({differences}); "
                "name another destination, or remove this one."
            )
        return result or None

    def write(self, result: Mapping[str, Any] | None) -> None:
        """Write the receipt of a build that begins (None) or is finished."""
        content = {"source": dict(self.made_of)} | ({"result": dict(result)} if result else {})
        (self.destination / RECEIPT_NAME).write(json.dumps(content, indent=2, sort_keys=True).encode())

    def _check_empty(self) -> None:
        files = sorted(self.destination.sizes())
        if files:
            raise DataSetError(
                f"{self.destination.uri}: is not empty ({files[0]}) and was not begun by this command; "
                "name another destination."
            )


def write_rejected(destination: Location, parts: Iterable[Part]) -> None:
    """Write the rejected items to a file in the folder of the shards, if there are any."""
    ordered = sorted(parts, key=lambda part: part.number)
    rejected = [asdict(item) for part in ordered for item in part.rejected]
    if rejected:
        (destination / REJECTED_NAME).write(encode_jsonl(rejected))
    else:
        (destination / REJECTED_NAME).delete()
