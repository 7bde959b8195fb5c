"""Progress of functions: a bar where a person looks, silence elsewhere, and never a bar that stays."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from tqdm import tqdm

from remainder.base.cache import silent
from remainder.base.progress import in_notebook, shown


@pytest.fixture(autouse=True)
def alone() -> None:
    """No bar that another test left open stands above."""
    tqdm._instances.clear()


def kernel(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    shell = SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def test_a_script_shows_nothing_unless_it_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(None) as tell:
        assert tell is None
    with shown(False) as tell:
        assert tell is silent
    with shown(silent) as tell:
        assert tell is silent
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(True) as tell:
        assert tell is not None
        tell("reading", 3, 3)  # over before there was anything to wait for
        tell("codes", 0, None)
        for done in range(5):
            tell("my-sae", done, 4)
        tell("2 of 3 done", 2, 3)  # a bar that begins in the middle
    told = capsys.readouterr().err
    assert "reading" not in told
    assert "codes … 00:00" in told
    assert "my-sae" in told
    assert "| 2/3 [" in told
    assert told.endswith("\r")  # it is wiped away


def test_a_notebook_shows_a_bar_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel(monkeypatch, {"IPKernelApp": {}})
    assert in_notebook()
    with shown(None) as tell:
        assert tell is not None
        tell("my-sae", 1, 4)
    assert "my-sae" in capsys.readouterr().err
    with shown(False) as tell:
        assert tell is silent


def test_a_console_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(monkeypatch, {"TerminalIPythonApp": {}})
    assert not in_notebook()


def test_an_error_takes_the_bar_away(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with shown(True) as tell:
            assert tell is not None
            tell("my-sae", 1, 4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert capsys.readouterr().err.endswith("\r")
