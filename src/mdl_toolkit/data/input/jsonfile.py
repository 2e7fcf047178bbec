"""JSON as rows: an object on each line, or one array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

#: The number of characters of the largest object; in a larger one, a bracket was probably never closed.
MAX_OBJECT = 1 << 24
_CHUNK = 1 << 16
#: Beginnings that no header of a CSV has.
_OBJECT = re.compile(r'\s*\{\s*"')
_ARRAY = re.compile(r"\s*\[\s*[\[{\]]")
_BLANK = re.compile(r"\s*")
#: What may follow an element.
_ENDS = " \t\r\n,]"


class ArrayError(Exception):
    """An array that can't be read on: the element, from 1, and why."""

    def __init__(self, element: int, reason: str) -> None:
        super().__init__(reason)
        self.element = element


class RepeatedKeyError(ValueError):
    """An object that has a key twice, itself or one within it: which value is meant isn't known."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key[:40]!r} is there twice; keep one")


class _Decoder(json.JSONDecoder):
    """Decodes JSON, and notices keys that an object has twice: by itself Python takes the last one."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object)
        self._repeated: str | None = None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs) and self._repeated is None:
            keys = [key for key, _ in pairs]
            self._repeated = next(key for key in keys if keys.count(key) > 1)
        return value

    def value(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins at a place, or the error of a repeated key in it, and the place after it.

        Raises:
            ValueError: It is no JSON, or not all of it is there.
        """
        self._repeated = None
        value, end = self.raw_decode(text, at)
        return (value if self._repeated is None else RepeatedKeyError(self._repeated)), end


def looks_like(start: str) -> str | None:
    """``lines`` or ``array`` by the beginning of a file; ``None``: no JSON that could be rows."""
    if _ARRAY.match(start):
        return "array"
    return "lines" if _OBJECT.match(start) else None


def read_lines(lines: Iterable[str]) -> Iterator[tuple[int, str, Any]]:
    """Line number, text and value of each line that isn't blank; instead of a value its error."""
    decoder = _Decoder()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            text = line.strip(" \t\r\n")
            try:
                value, end = decoder.value(text, 0)
                if end != len(text):
                    value = ValueError("something follows the value")
            except (ValueError, RecursionError) as error:
                value = error
            yield number, line, value


def read_array(stream: IO[str]) -> Iterator[tuple[int, Any]]:
    """Elements of an array, from 1, one at a time; instead of one with a key twice its error.

    Raises:
        ArrayError: The array is cut short, damaged, or followed by something else.
    """
    source, number = _Source(stream), 0
    source.next_mark()
    source.at += 1  # the opening bracket
    found = source.next_mark()
    while found != "]":
        number += 1
        try:
            value = source.value()
        except (ValueError, RecursionError) as error:
            # The library's message counts places from what was read last, not from the file's beginning.
            raise ArrayError(number, getattr(error, "msg", str(error))) from error
        yield number, value
        found = source.next_mark()
        if found == ",":
            source.at += 1
            source.next_mark()
        elif found != "]":
            raise ArrayError(number, f"{found!r} follows it" if found else "the file ends after it")
    source.at += 1
    if source.next_mark():
        raise ArrayError(number, "something follows the closing bracket")


class _Source:
    """The text of a file, of which only the part that is being read is in memory."""

    def __init__(self, stream: IO[str]) -> None:
        self.at = 0
        self._stream, self._text = stream, ""
        self._decode = _Decoder().value

    def next_mark(self) -> str:
        """Skip blanks; returns the character after them, or an empty text at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = self._decode(self._text, self.at)
            except ValueError:
                if len(self._text) - self.at > MAX_OBJECT or not self._more():
                    raise
                continue
            # A number may go on with what is read next.
            ended = end < len(self._text) and self._text[end] in _ENDS
            if ended or len(self._text) - self.at > MAX_OBJECT or not self._more():
                self.at = end
                return value

    def _more(self) -> bool:
        """Double what is in memory, so that the work grows in proportion to the file."""
        read = self._stream.read(max(_CHUNK, len(self._text) - self.at))
        if read:
            self._text, self.at = self._text[self.at :] + read, 0
        return bool(read)
