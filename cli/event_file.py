"""Splits the input of `projector append` into events: one JSON object or array per line, or one array in all."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from cli.output import CliError

_UTF8_BOM = b"\xef\xbb\xbf"
# A string, or one character that matters outside of strings. A string that does not end in its line ends with it.
_TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"?|[\[\]{},]')
_UNCLOSED = b"["


class InputEvent(NamedTuple):
    """The bytes of one event, not validated, and the number of the line that it begins in."""

    line: int
    body: bytes


def iter_events(lines: Iterable[bytes]) -> Iterator[InputEvent]:
    """Yield the events of lines, and skip empty lines; raises CliError if the input is not UTF-8.

    Only an array in the first line that is not empty may continue in other lines. So an array further down that is
    never closed is one invalid line, and the lines after it are still read.
    """
    numbered = (InputEvent(*each) for each in enumerate(_in_utf8(lines), start=1))
    not_empty = (each for each in numbered if each.body.strip())
    first = next(not_empty, None)
    if first is None:
        return
    if _is_array(first):
        yield from _Elements(chain([first], numbered))
    else:
        yield InputEvent(first.line, first.body.strip())
    for number, body in not_empty:
        line = InputEvent(number, body.strip())
        elements = [*_Elements([line])] if _is_array(line) else [line]
        yield from [line] if InputEvent(number, _UNCLOSED) in elements else elements


def _is_array(line: InputEvent) -> bool:
    return line.body.lstrip().startswith(b"[")


class _Elements:
    """Iterates over the elements of a JSON array that begins in the first of some lines, without validating them.

    What follows the array in its last line is an element too. If the array never ends, the last is `_UNCLOSED`.
    """

    def __init__(self, lines: Iterable[InputEvent]) -> None:
        self._lines = lines
        self._depth = 0
        self._parts: list[InputEvent] = []

    def __iter__(self) -> Iterator[InputEvent]:
        begins_at = 0
        for line in self._lines:
            begins_at = begins_at or line.line
            yield from self._split(line)
            if not self._depth:
                return
        yield from self._take()
        yield InputEvent(begins_at, _UNCLOSED)

    def _split(self, line: InputEvent) -> Iterator[InputEvent]:
        begin = 0
        for token in _TOKEN.finditer(line.body):
            if token[0] in b"[{":
                self._depth += 1
                begin = token.end() if self._depth == 1 else begin
            elif token[0] in b"]}":
                self._depth -= 1
            if self._depth == 0 or (self._depth == 1 and token[0] == b","):
                self._add(line.line, line.body[begin : token.start()])
                yield from self._take() if self._parts or not self._depth else [InputEvent(line.line, b"")]
                begin = token.end()
            if self._depth == 0:
                break
        self._add(line.line, line.body[begin:])
        if self._depth == 0:
            yield from self._take()

    def _add(self, number: int, part: bytes) -> None:
        if self._parts or part.strip():
            self._parts.append(InputEvent(number, part))

    def _take(self) -> Iterator[InputEvent]:
        if self._parts:
            yield InputEvent(self._parts[0].line, b"".join(part.body for part in self._parts).strip())
        self._parts = []


def _in_utf8(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without a byte order mark; raises CliError if the first one is in another encoding of Unicode."""
    rest = iter(lines)
    first = next(rest, b"")
    encoding = json.detect_encoding(first)
    if not encoding.startswith("utf-8"):
        name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
        raise CliError(f"the input is {name}, not UTF-8; convert it, for example with `iconv -f {name} -t UTF-8`")
    yield first.removeprefix(_UTF8_BOM)
    yield from rest
