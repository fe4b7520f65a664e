"""Builds shards from image-text pairs that lie about as files; a build that was stopped is taken up again.

A shard is a function of the source and the shard's number alone: those of the items in its range that can be used. So
shards are made at once, and those that an earlier process finished are left as they are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from orchestrator.storage.jsonl_log import JsonlLog
from orchestrator.storage.location import Location
from orchestrator.stream.dataset.index import DataSetError, ShardFacts, ShardFormat, build_index, write_index
from orchestrator.stream.shards.corpus import RECEIPT_NAME, shard_name, write_shard, written_columns
from orchestrator.stream.shards.executors import ThreadMapper
from orchestrator.stream.shards.index_shards import ShardProgress
from orchestrator.stream.shards.load_items import Keyed, Survey, keyed, load, survey
from orchestrator.stream.shards.sources import Source
from workloads.contract import BadSample, Sample

JOURNAL_NAME = ".building"
SHARDS_AT_ONCE = 2
"""One is read while another is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build.

    Args:
        shard_format: kind of shards.
        samples_per_shard: items that go into a shard; those that cannot be used are missing from it.
        readers: files read at once.
        max_bad_share: share of the items that may be unusable, in [0, 1].
    """

    shard_format: ShardFormat = "webdataset"
    samples_per_shard: int = 1000
    readers: int = 16
    max_bad_share: float = 0.01


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made: samples, shards, rejected items by reason, items of an image that came before."""

    samples: int
    shards: int
    rejected: Mapping[str, int]
    repeated_images: int


def build_annotated(
    source: Source,
    destination: Location,
    options: BuildOptions,
    progress: Callable[[ShardProgress], None] = lambda _: None,
) -> BuildResult:
    """Build indexed shards, or go on with a build of the same source and shape; a finished one is left as it is.

    Args:
        source: where the items come from.
        destination: gets the shards, their index and `rejected.jsonl`; empty, or begun by this function.
        options: how.
        progress: called after every shard.

    Raises:
        DataSetError: the source is malformed or empty, too much of it is bad, or the destination holds something else.
        StorageError: storage is failing.
    """
    receipt = Receipt(destination, _made_of(source, options))
    if done := receipt.result():
        return BuildResult(**done)
    looked_at = survey(source)
    if not looked_at.items:
        raise DataSetError(f"{source.name}: has no images (.jpg, .jpeg, .png, .webp) and no captions.")
    receipt.write(None)
    with JsonlLog(destination / JOURNAL_NAME) as journal:
        parts = _all_parts(source, looked_at, destination, options, journal, progress)
        write_rejected(destination, parts)
        facts = [part.facts for part in parts if part.facts]
        write_index(destination, build_index(facts, options.shard_format, written_columns(options.shard_format)))
        result = BuildResult(sum(one.samples for one in facts), len(facts), _reasons(parts), looked_at.repeats)
        receipt.write(asdict(result))
        journal.remove()
    return result


def _made_of(source: Source, options: BuildOptions) -> dict[str, str]:
    shape = {"format": options.shard_format, "samples_per_shard": str(options.samples_per_shard)}
    return {"source": source.digest(), **shape}


def _all_parts(
    source: Source,
    looked_at: Survey,
    destination: Location,
    options: BuildOptions,
    journal: JsonlLog,
    progress: Callable[[ShardProgress], None],
) -> list[Part]:
    """Make the shards that are not there yet; return the parts in order."""
    known = _known(journal, destination)
    count = -(-looked_at.items // options.samples_per_shard)
    parts: dict[int, Part] = {}
    samples = bad = 0
    with _Builder(source, destination, options, known) as builder:
        chunks = _chunks(keyed(source, looked_at), options.samples_per_shard)
        for part in ThreadMapper(SHARDS_AT_ONCE)(builder.part, enumerate(chunks)):
            parts[part.number] = part
            if part != known.get(part.number):
                journal.add(part.as_json())
            samples, bad = samples + part.samples, bad + len(part.rejected)
            progress(ShardProgress(len(parts), count, samples, bad))
            if bad > options.max_bad_share * looked_at.items:
                write_rejected(destination, parts.values())
                raise DataSetError(_too_bad(source, destination, parts.values(), looked_at.items, options))
    return [parts[number] for number in sorted(parts)]


class _Builder:
    """Makes shards, a few at once, with a common pool of readers that is given up when the body ends."""

    def __init__(self, source: Source, destination: Location, options: BuildOptions, known: Mapping[int, Part]) -> None:
        self._source = source
        self._destination = destination
        self._options = options
        self._known = known
        self._readers = ThreadPoolExecutor(options.readers)

    def part(self, chunk: tuple[int, list[Keyed]]) -> Part:
        number, items = chunk
        known = self._known.get(number)
        if known and not self._is_mended(known, items):
            return known
        found = list(self._readers.map(self._load, items))
        samples = [one for one in found if isinstance(one, Sample)]
        place = self._destination / shard_name(number, self._options.shard_format)
        facts = write_shard(place, samples, self._options.shard_format) if samples else None
        return Part(number, facts, tuple(one for one in found if isinstance(one, Rejected)))

    def _is_mended(self, known: Part, items: list[Keyed]) -> bool:
        """Return whether an item that was rejected earlier can be used now."""
        rejected = {one.item for one in known.rejected}
        again = [one for one in items if one.number in rejected]
        return any(isinstance(found, Sample) for found in self._readers.map(self._load, again))

    def _load(self, keyed_item: Keyed) -> Sample | Rejected:
        item = keyed_item.item
        try:
            return load(self._source, item, keyed_item.key)
        except BadSample as fault:
            return Rejected(keyed_item.number, keyed_item.key, item.image, fault.reason, fault.detail)

    def __enter__(self) -> _Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)


def _known(journal: JsonlLog, destination: Location) -> dict[int, Part]:
    """Return the parts that an earlier process finished and that are still there; remove its unfinished files."""
    sizes = destination.sizes()
    for name in sizes:
        if name.startswith(".shard-"):
            (destination / name).delete()
    parts = (Part.from_json(note) for note in journal.read())
    return {
        part.number: part for part in parts if part.facts is None or sizes.get(part.facts.shard) == part.facts.bytes
    }


def _chunks(items: Iterator[Keyed], size: int) -> Iterator[list[Keyed]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _too_bad(source: Source, destination: Location, parts: Iterable[Part], items: int, options: BuildOptions) -> str:
    reasons = _reasons(parts)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return (
        f"{source.name}: at least {sum(reasons.values())} of {items} samples cannot be used ({counts}), more than "
        f"{options.max_bad_share:.1%}; they are listed in {(destination / REJECTED_NAME).uri}. Mend them, or allow "
        "more with --max-bad-share, and run the same command again: it goes on with what is built."
    )


def _reasons(parts: Iterable[Part]) -> dict[str, int]:
    return dict(Counter(one.reason for part in parts for one in part.rejected).most_common())


# What a build remembers: of what it is made, what became of each shard, and which items it rejected.


REJECTED_NAME = "rejected.jsonl"


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that cannot be used: its number in the source, what it names, and why."""

    item: int
    key: str
    image: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Part:
    """What became of the items of one shard.

    Args:
        number: of the shard.
        facts: of the shard; None when no item can be used, so that there is no shard.
        rejected: items that cannot be used.
    """

    number: int
    facts: ShardFacts | None
    rejected: tuple[Rejected, ...]

    @property
    def samples(self) -> int:
        """Samples in the shard."""
        return self.facts.samples if self.facts else 0

    def as_json(self) -> dict[str, Any]:
        """Return the part as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Part:
        """Return the part that plain values stand for."""
        facts = values["facts"] and ShardFacts(**values["facts"])
        return cls(values["number"], facts, tuple(Rejected(**one) for one in values["rejected"]))


@dataclass(frozen=True, slots=True)
class Receipt:
    """The file that says of what a folder of shards is made.

    Args:
        destination: the folder.
        made_of: what determines the shards.
    """

    destination: Location
    made_of: Mapping[str, str]

    def result(self) -> dict[str, Any] | None:
        """Return the result of a finished build, or None when it is not finished or not begun.

        Raises:
            DataSetError: the folder holds something else.
        """
        place = self.destination / RECEIPT_NAME
        if place.size() is None:
            self._refuse_strangers()
            return None
        try:
            found = json.loads(place.read())
            made_of, result = dict(found["source"]), dict(found.get("result", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise DataSetError(f"{place.uri}: is damaged ({error}); remove {self.destination.uri}.") from error
        changed = [name for name in self.made_of if made_of.get(name) != self.made_of[name]]
        if changed:
            differences = ", ".join(f"{name} {self.made_of[name]}, was {made_of.get(name)}" for name in changed)
            raise DataSetError(
                f"{self.destination.uri}: holds shards that are made of something else ({differences}); "
                "name another destination, or remove this one."
            )
        return result or None

    def write(self, result: Mapping[str, Any] | None) -> None:
        """Write the receipt of a build that begins (no result) or is finished."""
        content = {"source": dict(self.made_of)} | ({"result": dict(result)} if result else {})
        (self.destination / RECEIPT_NAME).write(json.dumps(content, indent=2, sort_keys=True).encode())

    def _refuse_strangers(self) -> None:
        files = sorted(self.destination.sizes())
        if files:
            raise DataSetError(
                f"{self.destination.uri}: is not empty ({files[0]}) and was not begun by this command; "
                "name another destination."
            )


def write_rejected(destination: Location, parts: Iterable[Part]) -> None:
    """List the rejected items, if there are any, in a file beside the shards."""
    ordered = sorted(parts, key=lambda part: part.number)
    lines = [json.dumps(asdict(one), ensure_ascii=True) + "\n" for part in ordered for one in part.rejected]
    if lines:
        (destination / REJECTED_NAME).write("".join(lines).encode())
    else:
        (destination / REJECTED_NAME).delete()
