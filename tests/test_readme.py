"""The README's notebook example runs as it stands, on the real model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from remainder.paths import project_root

README = Path(__file__).parent.parent / "README.md"


def test_the_notebook_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(project_root())
    scope: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), scope)
    shown = capsys.readouterr().out
    result = scope["result"]
    raw = result.record.metrics.rungs["raw"].quenched.gap.value  # type: ignore[attr-defined]
    full = result.record.metrics.rungs["full"].quenched.gap.value  # type: ignore[attr-defined]
    assert f"{raw:.3f}".lstrip("0") in shown
    assert 0.2 < raw < 0.6
    assert raw < full < 1
    assert max(map(len, shown.splitlines())) <= 80


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from remainder.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^remainder (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= known
