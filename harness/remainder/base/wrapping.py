"""Text for a terminal that survives copying: paths, quotations and commands are never broken in two.

1. Prose is filled to a width at blanks. Text in backticks or quotes stays on one line, and a word that is
   longer than a line, such as a path, stays whole.
2. A command is one line, however long: a terminal wraps it without putting anything into it. Its words are
   quoted as a shell takes them back.

Needs no torch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

__all__ = ["command", "fill", "quoted"]

_BLANK = "\0"
"""Temporary stand-in for a blank at which no line may be broken."""
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", "'": r"\'"}
# Quotes within a word are apostrophes.
_ATOM = re.compile(r"""(?:`[^`]*`|(?<!\w)'[^']*'(?!\w)|(?<!\w)"[^"]*"(?!\w)|\S)+""")


def fill(text: str, width: int, *, hanging: str = "", whole: Sequence[str] = ()) -> str:
    """`text` in lines of at most `width` letters, where that needs no word, quotation or command broken.

    Args:
        text: its own line breaks and indentation are kept.
        width: letters in a line.
        hanging: put before every line that is begun here.
        whole: other texts to keep on one line, such as a path that holds blanks.
    """
    for part in whole:
        if " " in part:
            text = text.replace(part, part.replace(" ", _BLANK))
    lines = (part for line in text.split("\n") for part in _lines(line, width, hanging))
    return "\n".join(lines).replace(_BLANK, " ")


def _lines(line: str, width: int, hanging: str) -> list[str]:
    if len(line) <= width:
        return [line]
    lines: list[str] = []
    current, end = "", 0
    for match in _ATOM.finditer(line):
        space, atom = line[end : match.start()], match[0]
        if end and len(current) + len(space) + len(atom) > width:
            lines.append(current)
            current, space = hanging, ""
        current += space + atom  # keep runs of blanks, which align columns
        end = match.end()
    return [*lines, current]


def command(words: Sequence[str]) -> str:
    """A command as one line that a POSIX shell takes apart into the same words."""
    return " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """A word quoted for a shell; letters that a terminal would act upon are written as in `$'…'`."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, word)) + "'"


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    raw = letter.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)
