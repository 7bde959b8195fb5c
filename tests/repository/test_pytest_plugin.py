"""The pytest plugin in test suites of other people: free where unused, one message where it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remainder import api, pytest_plugin
from remainder.base.paths import project_root
from remainder.loading import open as opening
from remainder.loading.loaded import LoadedTask
from remainder.record.store import read_record
from remainder.report import gate as regression
from remainder.task.spec import Task, list_tasks

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
TASK, GOOD, BAD = "tiny/rule-and-noise", "rule-and-noise-pca-8", "rule-and-noise-pca-4"

Run = Callable[..., pytest.RunResult]


@pytest.fixture(scope="module")
def stored() -> api.Result:
    """A result, measured here: what an inner run imports is forgotten, and numpy cannot be imported twice."""
    return api.evaluate(TASK, GOOD)


@pytest.fixture
def run(pytester: pytest.Pytester, stored: api.Result) -> Run:
    """Runs pytest on a file of tests, with the plugin."""
    assert {pytest_plugin.__name__, regression.__name__} <= set(sys.modules)  # one of each for all runs

    def call(*arguments: str, source: str = "") -> pytest.RunResult:
        if source:
            pytester.makepyfile(source)
        plugin = ("-pno:remainder", "-premainder.pytest_plugin", "-pno:cacheprovider")
        quiet = "-Wignore::pytest.PytestAssertRewriteWarning"  # it was imported above already
        return pytester.runpytest_inprocess(*plugin, "--strict-markers", "-Werror", quiet, *arguments)

    return call


def failed_once(result: pytest.RunResult, *words: str) -> None:
    """One test failed, with one message that says these words, and without a traceback."""
    text = result.stdout.str()
    result.assert_outcomes(failed=1)
    for word in words:
        assert word in text
    assert "pytest_plugin.py" not in text
    assert "During handling" not in text
    assert text.split("short test summary")[0].count("remainder: ") == 1


def test_scores_checks_and_shows(run: Run) -> None:
    result = run(
        source=f"""
        import pytest

        @pytest.mark.remainder(task="{TASK}", max_gap=0.5)
        def test_it(remainder_score):
            score = remainder_score("{GOOD}")
            raw = score.record.metrics.rungs["raw"].quenched
            assert (score.gap_raw, score.kl_raw) == (raw.gap.value, raw.kl.value)
            assert score.gap_gaussian == score.record.metrics.rungs["full"].quenched.gap.value
            assert score.bits_per_token == score.record.complexity.bits_per_token.value
            assert score.record.tier == "quick"
            score.result.save("kept.json")
        """
    )
    result.assert_outcomes(passed=1)
    kept = read_record(Path("kept.json")).record
    assert (kept.task.id, kept.submission.name) == (TASK, GOOD)
    heading = "Submission*Task, tier*Bits*Δ raw*Δ Gaussian*"
    result.stdout.fnmatch_lines(["*= remainder =*", heading, f"{GOOD} *{TASK} *", "*quick *"])
    gap = kept.metrics.rungs["raw"].quenched.gap.value
    assert f"{gap:.3f}" in result.stdout.str()
    start = next(i for i, line in enumerate(result.stdout.lines) if "= remainder =" in line)
    assert max(map(len, result.stdout.lines[start:])) <= 80


def test_a_gap_that_is_too_large_fails(run: Run) -> None:
    source = f"""
        import pytest

        @pytest.mark.remainder(task="{TASK}", max_gap=0.01)
        def test_it(remainder_score):
            remainder_score("{BAD}")
    """
    result = run(source=source)
    failed_once(result, f"{BAD} on {TASK} (quick): Δ raw is -0.", "max_gap=0.01", "To mend it: ")
    result.stdout.fnmatch_lines([f"{BAD} *{TASK} *-0.*", "*quick *"])  # in the table all the same


def test_a_regression_from_a_stored_record_fails(
    run: Run, pytester: pytest.Pytester, stored: api.Result
) -> None:
    stored.save("records.json")
    source = f"""
        import pytest

        pytestmark = pytest.mark.remainder(task="{TASK}", baseline="records.json")

        @pytest.mark.remainder(fail_on_regression="kl_raw=0.01,explained_variance=0.01")
        def test_it(remainder_score):
            remainder_score("%s")
    """
    run(source=source % GOOD).assert_outcomes(passed=1)
    result = run(source=source % BAD)
    failed_once(result, f"{BAD} (B) is worse than {GOOD} (A) on {TASK}", "margin 0.01 (separable")
    pytester.path.joinpath("records.csv.gz").unlink()
    failed_once(run(), "values records.csv.gz are not beside it")


@pytest.mark.parametrize(
    ("marker", "call", "words"),
    [
        ("", f'"{GOOD}"', "is given no task"),
        ("", f'"{GOOD}", task="tiny/rule"', "tiny/rule"),
        ("", f'"no-such-sae", task="{TASK}"', "no-such-sae is no submission"),
        ("", f'"{GOOD}", task="{TASK}", tier="vast"', "vast"),
        ("", f'object(), task="{TASK}"', "encode"),
        ("@pytest.mark.remainder(max_gaps=1)", f'"{GOOD}"', "has no argument max_gaps"),
        ("@pytest.mark.remainder('tiny/wiki')", f'"{GOOD}"', "takes named arguments only"),
    ],
)
def test_what_cannot_be_scored_fails_with_one_message(run: Run, marker: str, call: str, words: str) -> None:
    body = "def test_it(remainder_score):\n    remainder_score("
    result = run(source=f"import pytest\n{marker}\n{body}{call})\n")
    text = result.stdout.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert words in text
    assert "To mend it: " in text
    assert "pytest_plugin.py" not in text


@pytest.mark.slow
def test_a_task_is_made_ready_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = opening.open_task

    def counted(task: Task, **settings: Any) -> LoadedTask:
        opened.append(task.id)
        return real(task, **settings)

    monkeypatch.setattr(opening, "open_task", counted)
    result = run(
        source=f"""
        def test_one(remainder_score):
            remainder_score("{GOOD}", task="{TASK}")

        def test_two(remainder_score):
            remainder_score("{BAD}", task="{TASK}")
            assert remainder_score("{GOOD}", task="{TASK}", tier="standard").record.tier == "standard"
        """
    )
    result.assert_outcomes(passed=2)
    assert opened == [TASK]


def test_the_tier_of_the_command_line_outdoes_the_marker(run: Run) -> None:
    source = f"""
        import pytest

        @pytest.mark.remainder(task="{TASK}", tier="quick")
        def test_it(remainder_score):
            assert remainder_score("{GOOD}").record.tier == "standard"
    """
    run("--remainder-tier", "standard", source=source).assert_outcomes(passed=1)


def test_objects_and_folders_below_the_root_are_found(run: Run, pytester: pytest.Pytester) -> None:
    shutil.copytree(project_root() / "baselines" / GOOD, pytester.path / "mine" / "sae")
    pytester.makeini("[pytest]")
    (pytester.path / "below").mkdir()
    (pytester.path / "below" / "test_below.py").write_text(
        "class Nothing:\n"
        "    def encode(self, x): return x\n"
        "    def decode(self, codes): return codes\n"
        "def test_it(remainder_score):\n"
        f"    assert remainder_score('mine/sae', task='{TASK}').gap_raw != 0\n"
        f"    assert abs(remainder_score(Nothing(), task='{TASK}').gap_raw) < 1e-6\n"
    )
    os.chdir(pytester.path / "below")  # pytester goes back by itself
    run().assert_outcomes(passed=1)


def test_a_suite_gives_one_test_for_each_task(run: Run) -> None:
    source = "def test_it(remainder_task, remainder_score):\n    assert remainder_task\n"
    result = run("--remainder-suite", "tiny", "--collect-only", "-q", source=source)
    found = [line.split("[")[1][:-1] for line in result.stdout.lines if "::test_it[" in line]
    assert found == list_tasks("tiny")
    run().assert_outcomes(skipped=1)
    unknown = run("--remainder-suite", "tinny")
    assert unknown.ret == pytest.ExitCode.USAGE_ERROR
    assert "--remainder-suite: there is no suite 'tinny'" in unknown.stderr.str()


@pytest.mark.slow
def test_scores_come_back_from_workers(run: Run) -> None:
    pytest.importorskip("xdist")
    source = f"def test_it(remainder_score):\n    remainder_score('{GOOD}', task='{TASK}')\n"
    result = run("-n1", source=source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= remainder =*", f"{GOOD} *{TASK} *", "*quick *"])


# how it is installed


def python(*arguments: str, site: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join(map(str, (site, ROOT / "harness")))
    environment = {**os.environ, "PYTHONPATH": places, "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metadata that an installation writes: pytest finds the plugin by them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path_factory.mktemp("site")
    metadata = folder / "remainder-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: remainder\nVersion: 0\n")
    lines = [f"{name} = {place}" for name, place in project["entry-points"]["pytest11"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    return folder


def test_an_installation_brings_it_and_unused_it_imports_nothing(installed: Path, tmp_path: Path) -> None:
    heavy = ("torch", "pandas", "numpy", "pydantic", "rich", "remainder.report.tables", "remainder.task.spec")
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_it(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.has_plugin('remainder')\n"
        "    assert 'remainder.pytest_plugin' in sys.modules\n"
        f"    assert not set({heavy!r}) & set(sys.modules)\n"
    )
    others = ("-pno:jaxtyping", "-pno:hypothesispytest", "-pno:benchmark", "-pno:cacheprovider")
    done = python("-m", "pytest", "-Werror", *others, str(tmp_path), site=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "= remainder =" not in done.stdout


def test_the_tests_of_this_project_run_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    """jaxtyping refuses to instrument a package that a plugin has imported."""
    done = python("-m", "pytest", "--markers", site=installed)
    assert done.returncode == 0, done.stderr
    assert "mark.slow" in done.stdout
    assert "mark.remainder" not in done.stdout
    without = python("-m", "pytest", "--markers", "-c", os.devnull, site=installed, cwd=tmp_path)
    assert "@pytest.mark.remainder(task, tier, max_gap, baseline, fail_on_regression)" in without.stdout


@pytest.mark.slow
def test_the_example_passes(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "examples" / "ci", tmp_path / "repository")
    done = python("-m", "pytest", "-Werror", site=installed, cwd=tmp_path / "repository")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert done.stdout.count("my-sae ") >= 2
