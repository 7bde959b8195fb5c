"""Docstrings are sentences or noun phrases, and no fragments that begin with a preposition or a pronoun."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[2] / "harness"

FRAGMENT = re.compile(
    r"(Of|By|As|Those|What|That|The same|At|In|With|Without|Whether or|Where|Which|Whose|From|For|On|To be"
    r"|Also|Else|Or|And|Only|Not|None|So|How|Before|After|Until|Beside|Between|Into|Their|Its|It|They|These)\b"
)
SENTENCE = re.compile(r"(How (many|much)|The same as)\b")


def fragments(source: str) -> Iterator[tuple[int, str]]:
    """Lines and first lines of docstrings, also those below a field, that begin as no sentence does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = str(node.value.value).strip()
            if FRAGMENT.match(text) and not SENTENCE.match(text):
                yield node.lineno, text.splitlines()[0]


def test_docstrings_begin_as_sentences_do() -> None:
    found = [
        f"{path.relative_to(HARNESS)}:{line}: {text}"
        for path in sorted(HARNESS.rglob("*.py"))
        for line, text in fragments(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_fragment_would_be_found() -> None:
    source = 'x = 1\n"""Of a rung that has noise."""\ndef f():\n    """How many draws."""\n'
    assert list(fragments(source)) == [(2, "Of a rung that has noise.")]
    assert list(fragments('"""What it is."""')) == [(1, "What it is.")]
