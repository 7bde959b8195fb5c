"""The outermost fields of a JSON file, without parsing it: however large it is, wherever they stand.

1. The file is read in pieces; what is nested deeper than the outermost object is passed over, and no more
   than a few pieces are ever held. A text that is no sound JSON has an outline too: that of its beginning.
2. The caller stops it as soon as the names that were seen tell what the file is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["Outline", "outline"]

_PIECE = 1 << 20
_LONGEST = 1 << 16
"""Bytes of the longest string that is carried from piece to piece; of a longer one only its end matters."""
_MARK = b"\xef\xbb\xbf"
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_WORDS = 64
_WORD = re.compile(rb'[^\s"{}\[\],:]+\Z')
"""The number or word that the end of a piece may have cut in two, or a backslash."""
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)
_QUOTE = ord('"')
_STEPS = bytes({123: 1, 91: 1, 125: 255, 93: 255}.get(letter, 0) for letter in range(256))
"""The change of depth at every letter, as int8."""


@dataclass
class Outline:
    """The outline of a file."""

    kind: str = ""
    """The first letter: `{` of an object, `[` of a list; empty if there is none."""
    fields: dict[str, str] = field(default_factory=dict)
    """Fields of the outermost object, in order: the name as it is written → first letter of the value."""
    is_whole: bool = False
    """Whether its end was seen."""
    goes_on: bool = False
    """Whether something else follows it, as in a file of one object a line."""


def outline(path: Path, decided: Callable[[Mapping[str, str]], bool]) -> Outline:
    """The outermost fields of a JSON file, until they tell what it is.

    Args:
        path: of the file; UTF-8.
        decided: whether the fields that were seen tell enough; asked after each one.
    """
    scan = _Scan(decided)
    with path.open("rb") as stream:
        held = stream.read(_PIECE).removeprefix(_MARK)
        while held and not scan.is_done:
            rest = scan.take(held)
            piece = stream.read(_PIECE)
            held = rest + piece if piece else b""
    return scan.found


class _Scan:
    """The state of a scan between two pieces."""

    def __init__(self, decided: Callable[[Mapping[str, str]], bool]) -> None:
        self.found, self.is_done = Outline(), False
        self._decided, self._depth = decided, 0
        self._string = b""  # the last one, which is a name if a colon follows
        self._name: str | None = None  # whose value is next

    def take(self, held: bytes) -> bytes:
        """Look through a piece; what belongs to the next one, such as the beginning of a string."""
        plain = _ESCAPED.sub(b"__", held) if b"\\" in held else held
        quotes = np.frombuffer(plain, dtype=np.uint8) == _QUOTE
        rest, start = b"", len(held)
        if np.count_nonzero(quotes) % 2:
            # The last quote begins a string that does not end here: all of it is to come.
            start = int(np.flatnonzero(quotes)[-1])
            rest = _shortened(held[start:])
        elif match := _WORD.search(held[-_WORDS:]):
            rest = match.group()
            start -= len(rest)
        held, plain, quotes = held[:start], plain[:start], quotes[:start]
        steps = np.frombuffer(plain.translate(_STEPS), dtype=np.int8)
        outside = np.cumsum(quotes, dtype=np.int32) % 2 == 0
        depths = self._depth + np.cumsum(steps * outside, dtype=np.int32)
        if self._depth > 1 and (not len(depths) or depths.min() > 1):
            self._depth = int(depths[-1]) if len(depths) else self._depth
            return rest  # nothing in it is of the outermost object
        for match in _TOKEN.finditer(held):
            self._see(match.group())
            if self.is_done:
                break
        return rest

    def _see(self, token: bytes) -> None:
        first = chr(token[0])
        if not self._depth:
            self._begin(first)
            return
        if self._depth == 1 and self.found.kind == "{":
            if self._name is not None:
                self.found.fields.setdefault(self._name, first)
                self._name = None
                self.is_done = self._decided(self.found.fields)
            elif first == ":":
                self._name = self._string[1:-1].decode("utf-8", "replace")
            elif first == '"':
                self._string = token
        if first in "{[":
            self._depth += 1
        elif first in "}]":
            self._depth -= 1
            self.found.is_whole = not self._depth

    def _begin(self, first: str) -> None:
        """Outside of everything: the file's one value begins, or another one after it."""
        if self.found.kind:
            self.found.goes_on = self.is_done = True
            return
        self.found.kind = first
        self._depth = int(first in "{[")
        self.is_done = first != "{"  # the fields of other values have no names


def _shortened(string: bytes) -> bytes:
    """The beginning of a string; of one that is too long to be a name, no more than tells where it ends."""
    if len(string) <= _LONGEST:
        return string
    odd = (len(string) - len(string.rstrip(b"\\"))) % 2
    return b'"' + b"\\" * odd
