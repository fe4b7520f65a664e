"""What can be wrong with a data set: findings as values, and the checks that make them, apart from reading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.stream.data_set import pictures
from orchestrator.stream.data_set.content import Content, Unreadable
from orchestrator.stream.data_set.pictures import MAX_PIXELS, MAX_SIDE, SizeLimit
from workloads.contract import BadSample, Sample

MAX_CAPTION_WORDS = 256
"""Longer captions are usually pages or lists that got into the wrong field."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    Args:
        shard: name of the shard.
        key: of the sample; empty when the shard as a whole is meant.
        kind: class of fault; those of a sample are the reasons for which training would skip it.
        detail: what exactly was found.
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
    """How closely samples are looked at.

    Args:
        decode: decode every image; otherwise only its header is read.
        max_pixels: largest image, in pixels.
        max_side: largest width or height, in pixels.
        max_caption_words: longest caption, in words.
    """

    decode: bool = True
    max_pixels: int = MAX_PIXELS
    max_side: int = MAX_SIDE
    max_caption_words: int = MAX_CAPTION_WORDS

    @property
    def size_limit(self) -> SizeLimit:
        """The largest image."""
        return SizeLimit(self.max_pixels, self.max_side)

    def as_json(self) -> dict[str, Any]:
        """Return the checks as plain values."""
        return asdict(self)


def check_size(shard: str, indexed: int, found: int | None) -> Iterator[Finding]:
    """Compare the size of a shard's file with the index.

    Args:
        shard: its name.
        indexed: bytes when it was indexed.
        found: bytes now; None when there is no file.
    """
    if found is None:
        yield Finding(shard, "", "shard is missing", f"{indexed} bytes when it was indexed")
    elif found < indexed:
        yield Finding(shard, "", "shard is shorter", f"{found} bytes, {indexed} when it was indexed")
    elif found > indexed:
        yield Finding(shard, "", "shard has grown", f"{found} bytes, {indexed} when it was indexed")


def check_digest(shard: str, indexed: str, found: str) -> Iterator[Finding]:
    """Compare the digest of a shard's file, whose size is right, with the index."""
    if found != indexed:
        yield Finding(shard, "", "shard has changed", f"digest {found}, {indexed} when it was indexed")


def check_samples(shard: str, indexed: int, found: int, place: str) -> Iterator[Finding]:
    """Compare the number of samples that a shard has in some place with the index."""
    if found != indexed:
        yield Finding(shard, "", "samples disagree with the index", f"{found} in {place}, {indexed} in the index")


def check_content(shard: str, content: Content, checks: Checks) -> Iterator[Finding]:
    """Find what is wrong with what was read at one row."""
    if isinstance(content, Unreadable):
        yield Finding(shard, content.key, content.fault.reason, content.fault.detail)
        return
    for fault in (*_caption_faults(content, checks.max_caption_words), *_image_faults(content, checks)):
        yield Finding(shard, content.key, fault.reason, fault.detail)


def _caption_faults(sample: Sample, max_words: int) -> Iterator[BadSample]:
    for place, caption in enumerate(sample.captions, start=1):
        words = len(caption.split())
        which = f"caption {place} of {len(sample.captions)}"
        if words == 0:
            yield BadSample("caption is empty", which)
        elif words > max_words:
            yield BadSample("caption is too long", f"{which}: {words} words, the limit is {max_words}")


def _image_faults(sample: Sample, checks: Checks) -> Iterator[BadSample]:
    look = pictures.decode if checks.decode else pictures.read_header
    try:
        look(sample.image, checks.size_limit)
    except BadSample as fault:
        yield fault
