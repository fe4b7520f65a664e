"""What makes a stored sample usable: the rules that every verb applies to tar and Parquet shards.

Whatever is wrong with a sample is a `BadSample`, also what no one thought of: one sample never stops a verb.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestrator.storage.location import scheme_of
from orchestrator.stream.dataset.sidecar import Content, Unreadable
from workloads.contract import BadSample, Sample

if TYPE_CHECKING:
    from orchestrator.stream.dataset.images import SizeLimit

DETAIL_LENGTH = 200
"""Letters of stored text that a fault's detail quotes."""

SCHEMES = ("", "file", "s3", "gs", "gcs")
"""Kinds of addresses from which images are read; empty for a path."""

FAULTS_OF_PATHS = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
    errno.EILSEQ,
)
"""Errors of a local path that say nothing about other paths."""


@contextmanager
def judging() -> Iterator[None]:
    """Turn what a parser raises because of a sample's content into `BadSample`; nothing here may read from storage.

    Raises:
        BadSample: the sample cannot be used.
    """
    try:
        yield
    except (BadSample, MemoryError):
        raise
    except UnicodeDecodeError as error:
        raise BadSample("text is not UTF-8", str(error)) from error
    except Exception as error:  # the content is anybody's, and so is what parsers raise on it
        raise BadSample("sample is malformed", f"{type(error).__name__}: {error}"[:DETAIL_LENGTH]) from error


def check_captions(captions: Sequence[str], expected: str) -> None:
    """Raise unless a caption has a word.

    Args:
        captions: of a sample.
        expected: where captions are looked for, for the message.

    Raises:
        BadSample: there is no caption, or none has a word.
    """
    if not captions:
        raise BadSample("caption is missing", expected)
    if not any(caption.strip() for caption in captions):
        raise BadSample("caption is empty", f"none of {len(captions)} captions has a word")


def parse_fields(text: str) -> dict[str, Any]:
    """Return the fields in the text of a JSON object.

    Raises:
        BadSample: it is not JSON, no object, has a name twice, or holds text that is not valid Unicode.
    """
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadSample("json is malformed", str(error)) from error
    except ValueError as error:
        raise BadSample("json is malformed", f"a number has more than {sys.get_int_max_str_digits()} digits") from error
    if not isinstance(value, dict):
        raise BadSample("json is malformed", f"expected an object, found {_quoted(value)}")
    if "\\u" in text:
        _check_unicode(value)
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadSample("json is malformed", f"{_quoted(twice)} is there twice")
    return value


def _check_unicode(value: Mapping[str, Any]) -> None:
    """Raise if a text has half of a surrogate pair, which only an escape can bring in."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.end]
        raise BadSample("text is not valid Unicode", f"half of a surrogate pair after {_quoted(around)}") from error


def _quoted(value: object) -> str:
    return ascii(value)[:80]


def check_address(address: str) -> None:
    """Check that something may be at an image's address, without asking for it.

    Raises:
        BadSample: the address is malformed, or of a kind of storage that is not read.
    """
    if scheme_of(address) not in SCHEMES or address.startswith("data:"):
        raise BadSample("image address is not supported", address[:DETAIL_LENGTH])
    try:
        parts = urlsplit(address) if scheme_of(address) else None
    except ValueError as error:
        raise BadSample("image address is not valid", f"{address[:DETAIL_LENGTH]}: {error}") from error
    if "\0" in address or (parts and (parts.username or parts.password)):
        raise BadSample("image address is not valid", "it has a zero byte or credentials in it")


def image_fault(content: Content, decode: bool = False, limit: SizeLimit | None = None) -> BadSample | None:
    """Return what is wrong with a sample: why it could not be read, or what its image's file says.

    Args:
        content: the sample.
        decode: decode the whole image; otherwise its header alone is read.
        limit: the largest image that is allowed.
    """
    from orchestrator.stream.dataset import images  # imports Pillow, which a machine that only plans may lack

    if isinstance(content, Unreadable):
        return content.fault
    try:
        (images.decode if decode else images.read_header)(content.image, limit)
    except BadSample as fault:
        return fault
    return None


def make_sample(key: str, image: bytes, captions: Sequence[str], fields: Mapping[str, Any]) -> Sample:
    """Return a sample whose captions have been checked.

    Raises:
        BadSample: the image has no bytes.
    """
    if not image:
        raise BadSample("image is empty", "the file has no bytes")
    return Sample(key, image, tuple(captions), fields)
