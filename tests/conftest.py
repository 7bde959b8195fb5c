"""Settings of every test: reproducible, off the network, no window opened."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import typechecks
from hypothesis import settings
from terminal import Command, Outcome

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: a test must not depend on a hub
os.environ["MPLBACKEND"] = "agg"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and for the same reason
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers that all used all cores would wait for each other
    _THREADS = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(_THREADS, 1)))  # read when torch is imported

# The same examples in every run, and no deadline: a busy machine must not fail a test.
settings.register_profile("remainder", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("remainder")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unchecked", action="store_true", help="leave the run-time checks of types out")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("unchecked"):
        typechecks.install("remainder")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a package that is not there; where slow tests are run too, nothing may be left out."""
    typechecks.begin()
    for mark in item.iter_markers("needs"):
        (package,) = mark.args
        if find_spec(package) is None:
            words = f"{package} is not installed; `make install` does that"
            (pytest.skip if item.config.option.markexpr == "not slow" else pytest.fail)(words)


@pytest.fixture
def exact_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rungs of exact codes, as on a task whose values are known beforehand."""
    from remainder.task.spec import Task

    monkeypatch.setattr(Task, "ladder", "exact")


@pytest.fixture
def remainder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, run in this process as from a terminal of 80 columns."""
    from remainder.cli import main as cli  # only now, when the checks of shapes are in place

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["remainder", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The Chromium of the machine, else the one that playwright has fetched; skipped without either."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    with sync_api.sync_playwright() as driver:
        try:
            running = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield running
        running.close()
