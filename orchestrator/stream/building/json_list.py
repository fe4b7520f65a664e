"""Reads a long JSON list item by item; files of some gigabytes need some megabytes of memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.stream.data_set.index import DataSetError
from orchestrator.stream.indexing.read_through import Stream

BLOCK_BYTES = 4 << 20
MAX_ITEM_CHARACTERS = 16 << 20
"""A longer item is taken for a malformed one."""

BETWEEN = re.compile(r"[\s,]*")


def json_objects(stream: Stream, place: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list, or of JSON lines.

    Args:
        stream: the file.
        place: its name, for messages.

    Raises:
        DataSetError: it is neither, or it is malformed or cut short.
    """
    text = _Text(stream, place)
    if text.skip() == "{":
        yield from _until(text, "")
        return
    if text.skip() != "[":
        raise DataSetError(f'{place}: is not a JSON list; expected [{{"image": ..., "caption": ...}}, ...].')
    text.place += 1
    yield from _until(text, "]")
    text.place += 1
    if text.skip():
        raise DataSetError(f"{place}: has something behind the end of its list.")


def _until(text: _Text, end: str) -> Iterator[dict[str, Any]]:
    number = 0
    while (start := text.skip()) != end:
        if start != "{":
            found = f"{start!r}" if start else "its end"
            raise DataSetError(f"{text.name}: expected an object as item {number}, found {found}; is it cut short?")
        yield text.item(number)
        number += 1


class _Text:
    """A window over a text file that grows only while an item is incomplete."""

    def __init__(self, stream: Stream, name: str) -> None:
        self.name = name
        self.place = 0
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._window = ""
        self._parse = json.JSONDecoder().raw_decode

    def skip(self) -> str:
        """Go to the next character that is neither space nor comma and return it; empty at the end."""
        while True:
            if found := BETWEEN.match(self._window, self.place):
                self.place = found.end()
            if self.place < len(self._window):
                return self._window[self.place]
            if not self._grow():
                return ""

    def item(self, number: int) -> dict[str, Any]:
        """Return the object that begins here."""
        while True:
            try:
                value, self.place = self._parse(self._window, self.place)
                return dict(value)
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self._window) - self.place > MAX_ITEM_CHARACTERS or not self._grow():
                    raise DataSetError(f"{self.name}: item {number} is malformed JSON ({error}).") from error

    def _grow(self) -> bool:
        block = self._stream.read(BLOCK_BYTES)
        try:
            more = self._decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise DataSetError(f"{self.name}: is not UTF-8 text ({error}).") from error
        self._window, self.place = self._window[self.place :] + more, 0
        return bool(block)
