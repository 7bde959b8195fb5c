"""The recipes of CONTRIBUTING.md, executed as they are written in a copy of the checkout.

A block whose first line is a comment with the path of a file is that file. A `diff` block names a file, and a
line of it after which its other lines, which begin with +, are added. A block of `sh` is run, and the block
after it, which names no language, is what it prints, where … stands for anything.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from remainder.base.paths import project_root

ROOT = project_root()
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIED = ("harness", "tasks", "baselines", "pyproject.toml", "tests/helpers")
QUICK = ("rung",)
"""What takes some seconds; the others are slow tests."""


class Block(NamedTuple):
    """A fenced block: its language, and its lines."""

    language: str
    lines: list[str]


def recipes(text: str) -> dict[str, list[Block]]:
    """Blocks of each section "Add a …", by what is added."""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    found = {}
    for section in sections:
        title, _, body = section.partition("\n")
        fences = re.findall(r"^```(\w*)\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
        if fences and (match := re.fullmatch(r"Add an? (\w+)", title)):
            found[match.group(1)] = [Block(language, block.splitlines()) for language, block in fences]
    return found


RECIPES = recipes(TEXT)


def run(block: Block, root: Path) -> str:
    """What a block of commands prints, on a terminal that ends at the first failure."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(root / "harness"),
        "PIP_NO_INDEX": "1",
        "COLUMNS": "80",
    }
    environment = {name: text for name, text in environment.items() if not name.startswith("PYTEST_")}
    script = "\n".join(["set -eu", *block.lines])
    done = subprocess.run(
        ["bash", "-c", script], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def add_lines(block: Block, root: Path) -> None:
    """Add the lines of a `diff` block after the line that it shows."""
    path = root / block.lines[0].removeprefix("# ")
    (anchor,) = (line[1:] for line in block.lines[1:] if line.startswith(" "))
    added = [line[1:] for line in block.lines[1:] if line.startswith("+")]
    assert len(added) + 2 == len(block.lines), block
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines.count(anchor) == 1, f"{path.name} has {lines.count(anchor)} lines {anchor!r}"
    place = lines.index(anchor) + 1
    path.write_text("\n".join([*lines[:place], *added, *lines[place:]]) + "\n", encoding="utf-8")


def execute(blocks: list[Block], root: Path) -> Iterator[str]:
    """Do what the blocks say, and compare what commands print; gives the output of each of them."""
    output = ""
    for block in blocks:
        if block.language == "sh":
            output = run(block, root)
            yield output
        elif block.language == "diff":
            add_lines(block, root)
        elif block.language:
            path = root / block.lines[0].removeprefix("# ")
            assert not path.exists(), f"{path} exists"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(block.lines[1:]) + "\n", encoding="utf-8")
        else:
            for line in block.lines:
                pattern = r".*".join(map(re.escape, line.split("…")))
                assert re.search(rf"^{pattern}$", output, re.MULTILINE), f"{line!r} is not in\n{output}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what recipes touch; large weights are linked, and nothing writes to them."""
    root = tmp_path / "checkout"

    def copied(source: str, target: str) -> str:
        if source.endswith(".safetensors"):
            Path(target).symlink_to(source)
            return target
        return shutil.copy2(source, target)

    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(ROOT / name, root / name, copy_function=copied, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, root / name)
    return root


def contents(root: Path) -> dict[str, list[str]]:
    """Lines of every file of the source, by path."""
    paths = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    read = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    return {name: data.decode(errors="replace").splitlines() for name, data in read.items()}


@pytest.mark.parametrize(
    "what", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_a_recipe_does_what_it_says(what: str, checkout: Path) -> None:
    before = contents(checkout)
    outputs = list(execute(RECIPES[what], checkout))
    after = contents(checkout)
    changed = {name for name in before if before[name] != after.get(name)}
    assert outputs
    assert changed <= {
        "tasks/lock.json",
        *(block.lines[0][2:] for block in RECIPES[what] if block.language == "diff"),
    }
    # One new file or class, and at most one line in a file that was there.
    written = changed - {"tasks/lock.json"}
    assert len(written) <= 1
    for name in written:
        assert len(after[name]) == len(before[name]) + 1


def test_every_recipe_ends_with_what_it_prints() -> None:
    assert set(RECIPES) == {"task", "interpretation", "format", "rung", "quantity", "plugin"}
    for blocks in RECIPES.values():
        assert [block.language for block in blocks[-2:]] == ["sh", ""]
        assert any(line.strip("…") for line in blocks[-1].lines)


def test_what_is_altered_in_the_text_is_altered_in_what_runs(checkout: Path) -> None:
    name, blocks = "direction", RECIPES["task"]
    altered = recipes(TEXT.replace(name, "redirection"))["task"]
    places = [i for i, (one, other) in enumerate(zip(blocks, altered, strict=True)) if one != other]
    assert {blocks[i].language for i in places} >= {"python", ""}
    # A block that does not print what it should fails.
    wrong = [Block("sh", ["echo one two"]), Block("", ["one … three"])]
    with pytest.raises(AssertionError, match="is not in"):
        list(execute(wrong, checkout))
    assert list(execute([wrong[0], Block("", ["one …"])], checkout)) == ["one two\n"]
    with pytest.raises(AssertionError, match="exit 3"):
        list(execute([Block("sh", ["exit 3"])], checkout))
