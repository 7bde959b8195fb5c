"""The page on new methods does what it says: its files and commands, as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.repository.test_recipes import Block, checkout, execute

from remainder.base.paths import project_root
from remainder.submission.sandbox.limits import MEMORY, SECONDS, current_limits

__all__ = ["checkout"]  # the fixture

PAGE = (project_root() / "docs" / "submit-a-method.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = [Block(language, block.splitlines()) for language, block in FENCES]


@pytest.mark.slow
def test_the_page_does_what_it_says(checkout: Path) -> None:
    outputs = list(execute(BLOCKS, checkout))
    assert len(outputs) == 5
    folder = checkout / "baselines" / "companded-pca"
    assert {path.name for path in folder.iterdir()} == {
        *("submission.toml", "method.py", "fit.py", "weights.safetensors")
    }
    # Checked, scored, submitted and measured again: code and not the benchmark's own reader did it.
    row = "companded-pca"
    assert all(row in output for output in outputs[2:])


def test_limits_on_the_page_are_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MEMORY, SECONDS):
        monkeypatch.delenv(name, raising=False)
    limits = current_limits()
    assert (limits.memory, limits.seconds) == (8e9, 120.0)
    assert f"8 GB beside what torch takes (`{MEMORY}`), and two minutes a batch (`{SECONDS}`)" in PAGE


def test_every_command_of_the_page_trusts_code_or_says_why_not() -> None:
    commands = [line for block in BLOCKS if block.language == "sh" for line in block.lines]
    ours = [line for line in commands if line.startswith("remainder ")]
    assert len(ours) == 4
    assert all(line.endswith(" --trust-code") for line in ours)
