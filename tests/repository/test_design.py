"""The design notes name what is there, and the map of the rooms is that of the contract."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from remainder.base.paths import project_root
from remainder.record.rungs import CIRCUIT_RUNGS, NULLS, RUNGS

ROOT = project_root()
NOTES = sorted((ROOT / "docs" / "design").glob("*.md"))
NAME = re.compile(r"_?[A-Za-z]\w*(\.\w+)*")


@cache
def definitions() -> set[str]:
    """Names of rooms, modules, functions, classes, fields and parameters of the package."""
    names = {*RUNGS, *NULLS, *CIRCUIT_RUNGS, "remainder"}
    for path in (ROOT / "harness" / "remainder").rglob("*.py"):
        names |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def unknown(text: str, known: set[str]) -> list[str]:
    """Names in backticks that the package does not have."""
    stems = [quoted for quoted in re.findall(r"`([^`\n]+)`", text) if NAME.fullmatch(quoted)]
    stems = [quoted for quoted in stems if not quoted.endswith((".json", ".gz", ".toml", ".md"))]
    return [quoted for quoted in stems if not set(quoted.split(".")) <= known]


@pytest.mark.parametrize("note", NOTES, ids=lambda path: path.stem)
def test_a_note_names_what_is_there_and_fits_a_page(note: Path) -> None:
    text, known = note.read_text(encoding="utf-8"), definitions()
    assert unknown(text, known) == []
    assert len(re.findall(r"`[^`\n]+`", text)) > 8
    assert len(text.split()) < 1000
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (note.parent / target).resolve().exists(), target


def test_a_name_that_is_gone_would_be_found() -> None:
    """Dotted names of modules are held by test_face.py."""
    assert unknown("`NoiseKeys` `Places` `x.json` `a b`", definitions()) == ["Places"]


def test_the_map_of_the_rooms_is_that_of_the_contract() -> None:
    text = (ROOT / "docs" / "design" / "rooms.md").read_text(encoding="utf-8")
    items = re.findall(r"^\d+\. (`[^–]+) – ", text, re.MULTILINE)
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rooms, torchless = content["tool"]["importlinter"]["contracts"][:2]
    assert [re.findall(r"`(\w+)`", item) for item in items] == [
        layer.split(" | ") for layer in rooms["layers"]
    ]
    assert rooms["type"] == "layers"
    assert "remainder.board" in torchless["source_modules"]
