"""Single tokens and their texts as a file, safe to look at in a terminal and in a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from remainder.base.files import require_target
from remainder.record.json import write_atomically

__all__ = ["ENDINGS", "write_tokens"]

ENDINGS = (".csv", ".jsonl")

_FORMULAS = tuple("=+-@")
"""Letters by which tables tell a formula."""

_TEXTS = ("before", "token", "next", "top_clean", "top_spliced")


def write_tokens(frame: pd.DataFrame, path: Path) -> None:
    """Write a row a token, whole or not at all: `.jsonl`, or `.csv`.

    Whatever is no printable letter is written as JSON writes control characters, as `\\u000a`, and so are a
    quote and a backslash. In a `.csv` the quotes around are left out: `json.loads(f'"{text}"')` gives the
    text back. There `=`, `+`, `-` and `@` at the beginning of a text are escaped too, as `\\u003d`, so that
    no table takes it for a formula.

    Raises:
        RecordError: the name has another ending, or there is no folder to put it in.
    """
    require_target(path, None, ENDINGS)
    if path.suffix == ".jsonl":
        text = "".join(f"{_json(row)}\n" for row in frame.to_dict("records"))
    else:
        text = frame.assign(**{name: frame[name].map(_cell) for name in _TEXTS}).to_csv(
            index=False, lineterminator="\n"
        )
    write_atomically(path, text.encode())


def _json(content: Any) -> str:
    """JSON with letters that a terminal would act upon escaped too."""
    text = json.dumps(content, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _cell(text: str) -> str:
    """A text as a cell of a table: JSON without its quotes, and no formula."""
    escaped = _json(text)[1:-1]
    return f"\\u{ord(escaped[0]):04x}{escaped[1:]}" if escaped[:1] in _FORMULAS else escaped
