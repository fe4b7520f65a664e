"""Samples that cannot be used: their list with keys and reasons, their counts by reason, and one line about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from orchestrator.config.commands import command_line
from orchestrator.storage.jsonl_log import decode_jsonl, encode_jsonl
from orchestrator.storage.location import Location

KEYS_SHOWN = 5
"""Keys that are named as examples of a reason."""


@dataclass(frozen=True, slots=True)
class UnusableSample:
    """A sample that cannot be used: its key, the class of its fault, and what exactly was found."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """Samples that one reason makes unusable.

    Args:
        reason: the class of fault.
        count: how many.
        keys: a few of their keys.
    """

    reason: str
    count: int
    keys: tuple[str, ...] = ()


def count_reasons(reasons: Iterable[tuple[str, str]]) -> tuple[ReasonCount, ...]:
    """Return the counts of reasons, sorted by reason.

    Args:
        reasons: the reason and the key of every unusable sample.
    """
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for reason, key in reasons:
        keys[reason].append(key)
    return tuple(ReasonCount(reason, len(alike), tuple(alike[:KEYS_SHOWN])) for reason, alike in sorted(keys.items()))


def count_unusable(samples: Iterable[UnusableSample]) -> tuple[ReasonCount, ...]:
    """Return the counts of samples by reason."""
    return count_reasons((sample.reason, sample.key) for sample in samples)


def describe_unusable(counts: Sequence[ReasonCount], total: int, uri: str, endpoint: str | None) -> str:
    """Return one line about the held-out samples that cannot be used: how many, and per reason the first key.

    Args:
        counts: at least one.
        total: samples that were looked at, the unusable ones included.
        uri: where they are.
        endpoint: of the S3-compatible server that has them.
    """
    unusable = sum(count.count for count in counts)
    reasons = ", ".join(f"{count.count} {count.reason}, first {count.keys[0]!r}" for count in counts)
    command = command_line("shards", "verify", uri, endpoint=endpoint)
    return f"{unusable} of {total} held-out samples cannot be used ({reasons}); see `{command}`"


def write_unusable(file: Location, samples: Sequence[UnusableSample]) -> None:
    """Write a list of unusable samples as JSON lines; without any, remove the file."""
    if samples:
        file.write(encode_jsonl(map(asdict, samples)))
    else:
        file.delete()


def read_unusable(file: Location) -> list[UnusableSample]:
    """Return a list of unusable samples; empty when there is no file."""
    if file.size() is None:
        return []
    return [UnusableSample(**record) for record in decode_jsonl(file.read())]
