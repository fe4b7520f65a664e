"""JSON as users have it: objects one by one from files of gigabytes, and what is wrong with a single one of them.

What would fail the parser, or be lost by it without a word, is kept as a value, so that one object spoils no other.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.stream.dataset.index import ByteStream, DataSetError
from workloads.contract import BadSample

BLOCK_BYTES = 4 << 20

MAX_ITEM_CHARACTERS = 16 << 20
"""A longer item of a list counts as malformed."""

MAX_DIGITS = 4000
"""Longest number that is parsed; Python refuses those of more than 4,300 digits."""

BETWEEN = re.compile(r"[\s,]*")


class JsonObject(dict[str, Any]):
    """An object as it was parsed; `repeated` are the names that it has more than once, whose first values are lost."""

    repeated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LongNumber:
    """Stands for an integer of too many digits."""

    digits: int


def _object(pairs: Sequence[tuple[str, Any]]) -> JsonObject:
    value = JsonObject(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        value.repeated = tuple(name for name in value if names.count(name) > 1)
    return value


def _integer(text: str) -> int | LongNumber:
    return int(text) if len(text) <= MAX_DIGITS else LongNumber(len(text))


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def json_fault(value: Any) -> BadSample | None:
    """Return what is wrong inside a parsed value: a repeated name, a number that is too long, half a character."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, LongNumber):
            return BadSample("json is malformed", f"a number of {part.digits} digits")
        if isinstance(part, JsonObject) and part.repeated:
            return BadSample("json is malformed", f"{part.repeated[0]!r} is there twice")
        if isinstance(part, str) and not part.isascii() and (fault := _text_fault(part)):
            return fault
        pending += [*part, *part.values()] if isinstance(part, dict) else part if isinstance(part, list) else ()
    return None


def _text_fault(text: str) -> BadSample | None:
    """Return a fault if JSON could escape a text, but UTF-8 cannot encode it: it has half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return BadSample("text is not valid Unicode", str(error))
    return None


class TextStream:
    """A window over a text file, which grows only while an item is incomplete.

    Args:
        stream: the file.
        name: its name, for messages.

    Raises:
        DataSetError: it is not UTF-8 text; so do all methods.
    """

    def __init__(self, stream: ByteStream, name: str) -> None:
        self.name = name
        self.position = 0
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._window = ""

    def skip(self) -> str:
        """Skip spaces and commas and return the next character; empty at the end."""
        while True:
            if match := BETWEEN.match(self._window, self.position):
                self.position = match.end()
            if self.position < len(self._window):
                return self._window[self.position]
            if not self._grow():
                return ""

    def peek(self) -> str:
        """Return the next character that is no space and no comma, and stay where it is; empty at the end."""
        while True:
            match = BETWEEN.match(self._window, self.position)
            start = match.end() if match else self.position
            if start < len(self._window):
                return self._window[start]
            if not self._grow():
                return ""

    def item(self, number: int, limit: int = MAX_ITEM_CHARACTERS) -> JsonObject:
        """Return the object that begins at the position.

        Args:
            number: of the item, for messages.
            limit: its most characters.

        Raises:
            DataSetError: it is malformed, or longer.
        """
        while True:
            try:
                value, self.position = DECODER.raw_decode(self._window, self.position)
                return value  # type: ignore[no-any-return]
            except (ValueError, RecursionError) as error:
                if len(self._window) - self.position > limit or not self._double():
                    raise DataSetError(f"{self.name}: item {number} is malformed JSON ({error}).") from error

    def lines(self) -> Iterator[str]:
        """Yield the lines from the position on, without their ends."""
        while True:
            end = self._window.find("\n", self.position)
            if end < 0 and self._grow():
                continue
            line = self._window[self.position : end if end >= 0 else None]
            self.position = end + 1 if end >= 0 else len(self._window)
            if line or end >= 0:
                yield line.removesuffix("\r")
            if end < 0:
                return

    def first_line(self) -> str:
        """Return the line at the position, or as much of it as an item may have, and stay there."""
        while "\n" not in self._window[self.position :] and len(self._window) < MAX_ITEM_CHARACTERS and self._grow():
            pass
        return self._window[self.position :].partition("\n")[0].removesuffix("\r")

    def _double(self) -> bool:
        """Read as much again as is in the window; return whether there was anything."""
        target = 2 * max(1, len(self._window) - self.position)
        grown = self._grow()
        while grown and len(self._window) - self.position < target and self._grow():
            pass
        return grown

    def _grow(self) -> bool:
        block = self._stream.read(BLOCK_BYTES)
        try:
            more = self._decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise DataSetError(f"{self.name}: is not UTF-8 text ({error}), as a list of images is.") from error
        self._window, self.position = self._window[self.position :] + more, 0
        return bool(block)


def objects_until(text: TextStream, end: str, number: int = 0) -> Iterator[JsonObject]:
    """Yield the objects from the position on; commas between them may be missing.

    Args:
        text: the file.
        end: the character behind the last one; empty for the end of the file.
        number: of the first item, for messages.

    Raises:
        DataSetError: an item is no object or malformed, or the end is missing.
    """
    while (start := text.skip()) != end:
        if start != "{":
            actual = f"{start!r}" if start else "its end"
            raise DataSetError(f"{text.name}: expected an object as item {number}, found {actual}; is it truncated?")
        yield text.item(number)
        number += 1
