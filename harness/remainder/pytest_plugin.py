"""The pytest plugin: score interpretations in a test suite, and fail where they leave out too much.

    @pytest.mark.remainder(task="tiny/digits", max_gap=0.1)
    def test_it_is_faithful(remainder_score):
        remainder_score("my-sae")

pytest loads this module by itself wherever Remainder is installed (`-p no:remainder` keeps it out), so it
imports nothing but pytest until a test asks for a score.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    import remainder.api
    import remainder.loading.loaded
    import remainder.record.schema
    import remainder.record.store

__all__ = ["Score", "Scorer"]

_TIER = "quick"
_MARGIN = "gap_raw=0.01"

_PROPERTY = "remainder"
"""The name under which the report of a test carries its scores, also from the workers of pytest-xdist."""

_loaded_tasks = pytest.StashKey[dict[tuple[str, str], Any]]()
"""Tasks that are ready to measure, by hash and device, for the whole session."""


@dataclass(frozen=True, repr=False)
class Score:
    """The result of `remainder_score`, with its quantities as plain numbers."""

    result: remainder.Result

    def __repr__(self) -> str:
        # What pytest prints where an assertion fails: not the whole record.
        return f"<Score of {self.record.submission.name} on {self.record.task.id}>"

    @property
    def record(self) -> remainder.record.schema.Record:
        """The whole record; `score.result.save(path)` writes it."""
        return self.result.record

    def __getattr__(self, key: str) -> float:
        """A quantity of the record by its name in data formats, such as `gap_raw` or `bits_per_token`."""
        from remainder.report.quantities import quantity, suggestion

        stated = quantity(key)
        if stated is None:
            raise AttributeError(f"a score has no {key}: {suggestion(key)}")
        number = stated.of_record(self.record)
        if number.value is None:
            _fail(f"{self.record.submission.name} has no {key}: {number.reason}")
        return number.value


@dataclass(frozen=True)
class _Requirement:
    """The arguments of `@pytest.mark.remainder`."""

    task: Any = None
    tier: str | None = None
    max_gap: float | None = None
    baseline: str | Path | None = None
    fail_on_regression: str = _MARGIN


class Scorer:
    """The fixture `remainder_score`, to be called with an interpretation."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._wanted = _wanted(item)

    def __call__(
        self,
        interpretation: Any,
        *,
        task: Any = None,
        tier: str | None = None,
        device: str = "auto",
        **settings: Any,
    ) -> Score:
        """Score an interpretation, and hold it against what the test's marker asks for.

        Args:
            interpretation: what `remainder.evaluate` takes: an object with `encode` and `decode`, a folder
                (also relative to pytest's root), the name of a baseline, a `hub:` id.
            task: an id or a folder; default: that of the marker.
            tier: default: `--remainder-tier`, else that of the marker, else `quick`.
            device: `auto`, `cpu` or `cuda`.
            settings: other arguments of `remainder.evaluate`, such as `rungs`.

        The test fails, with one message, if the interpretation cannot be scored, if the size of Δ raw exceeds
        `max_gap`, or if the score is a regression from the record `baseline`.
        """
        from remainder.api import evaluate
        from remainder.errors import RemainderError
        from remainder.record.store import StoredRecord

        chosen = self._wanted.task if task is None else task
        if chosen is None:
            _fail(
                "remainder_score is given no task",
                fix="pass task=..., or mark the test with @pytest.mark.remainder(task=...)",
            )
        tier = tier or self._item.config.getoption("remainder_tier") or self._wanted.tier or _TIER
        try:
            with warnings.catch_warnings():
                # Deprecations inside libraries are not the fault of whoever scores an SAE, but would be
                # errors under `-W error`.
                warnings.simplefilter("ignore", DeprecationWarning)
                loaded = self._load(chosen, device)
                result = evaluate(loaded, self._at_root(interpretation), tier=tier, **settings)
            score = Score(result)
            self._item.user_properties.append((_PROPERTY, _row(score)))
            self._check_gap(score)
            self._check_baseline(StoredRecord(result.record, result.values))
        except RemainderError as problem:
            _fail(problem.what, fix=problem.fix)
        return score

    def _load(self, task: Any, device: str) -> remainder.loading.loaded.LoadedTask:
        """The task, made ready once in a session."""
        from remainder.loading.loaded import LoadedTask
        from remainder.loading.open import open_task
        from remainder.task.spec import load_task

        if isinstance(task, LoadedTask):
            return task
        spec = load_task(self._at_root(task))
        kept = self._item.config.stash.setdefault(_loaded_tasks, {})
        key = (spec.hash, device)
        if key not in kept:
            kept[key] = open_task(spec, device=device)
        return kept[key]  # type: ignore[no-any-return]

    def _at_root(self, interpretation: Any) -> Any:
        """A path below pytest's root if there is such a file or folder, else the argument itself."""
        if isinstance(interpretation, (str, Path)):
            path = self._item.config.rootpath / interpretation
            return path if path.exists() else interpretation
        return interpretation

    def _check_gap(self, score: Score) -> None:
        limit = self._wanted.max_gap
        if limit is not None and abs(score.gap_raw) > limit:
            from remainder.report.text import format_value

            record = score.record
            _fail(
                f"{record.submission.name} on {record.task.id} ({record.tier}): Δ raw is "
                f"{format_value(score.gap_raw)} nats per token, more than max_gap={limit:g}",
                fix="mend the interpretation, or allow a larger max_gap",
            )

    def _check_baseline(self, measured: remainder.record.store.StoredRecord) -> None:
        if self._wanted.baseline is None:
            return
        from remainder.record.store import read_record
        from remainder.report.gate import find_changes, parse_margins, refuse

        stored = read_record(Path(self._at_root(self._wanted.baseline)))
        changes = find_changes(stored, measured, parse_margins(self._wanted.fail_on_regression))
        refuse(changes, stored, measured)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options `--remainder-suite` and `--remainder-tier`."""
    group = parser.getgroup("remainder", "scoring interpretations with Remainder")
    group.addoption(
        "--remainder-suite",
        metavar="SUITE",
        help="run tests that ask for `remainder_task` once for every task of a suite, e.g. tiny",
    )
    group.addoption(
        "--remainder-tier",
        metavar="TIER",
        help="how much `remainder_score` measures: quick or standard; default: what the test's marker says",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and refuse a suite that does not exist."""
    config.addinivalue_line(
        "markers",
        "remainder(task, tier, max_gap, baseline, fail_on_regression): what `remainder_score` runs on, the "
        "largest |Δ raw| in nats per token, a stored record, and the margins by which the score may be worse "
        f"than that (default {_MARGIN})",
    )
    if config.getoption("remainder_suite"):
        _tasks_of_suite(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for every task of `--remainder-suite`."""
    if "remainder_task" in metafunc.fixturenames and metafunc.config.getoption("remainder_suite"):
        metafunc.parametrize("remainder_task", _tasks_of_suite(metafunc.config))


@pytest.fixture
def remainder_task() -> str:
    """The id of a task of `--remainder-suite`; without that option the test is skipped."""
    pytest.skip("for tasks of a suite: run with --remainder-suite SUITE")


@pytest.fixture
def remainder_score(request: pytest.FixtureRequest) -> Scorer:
    """Score an interpretation: `remainder_score(interpretation, task=..., tier=...)`; see `Scorer`."""
    return Scorer(request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A table of all that was scored."""
    scored: dict[str, list[dict[str, str]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                rows = [
                    row for name, row in report.user_properties if name == _PROPERTY and isinstance(row, dict)
                ]
                # Setup, call and teardown report in turn, each with all that there is by then.
                scored[report.nodeid] = max(rows, scored.get(report.nodeid, []), key=len)
    rows = [row for own in scored.values() for row in own]
    if not rows:
        return
    from rich.table import Table
    from rich.text import Text

    from remainder.report.text import draw

    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="left" if number < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    terminalreporter.section("remainder")
    terminalreporter.write(draw([table]))
    terminalreporter.write_line(
        "Δ: nats per token, with 95 % intervals. Bits: per token, to write the codes."
    )


def _row(score: Score) -> dict[str, str]:
    """The row of a score in the table at the end."""
    from remainder.report.quantities import QUANTITIES, number_of
    from remainder.report.text import MISSING, format_interval, format_value

    record = score.record
    row = {"Submission": record.submission.name, "Task, tier": f"{record.task.id}\n{record.tier}"}
    for key in ("bits_per_token", "gap_raw", "gap_gaussian"):
        heading, number = QUANTITIES[key].heading, number_of(record, key)
        value = MISSING if number.value is None else format_value(number.value)
        # A cost hardly differs between documents, and three intervals would leave no room for names.
        interval = "" if key == "bits_per_token" else format_interval(number, short=True)
        row[heading] = "\n".join(filter(None, (value, interval)))
    return row


def _wanted(item: pytest.Item) -> _Requirement:
    """The arguments of all markers of a test; the closest marker wins."""
    given: dict[str, Any] = {}
    for marker in item.iter_markers("remainder"):
        unknown = set(marker.kwargs) - set(_Requirement.__dataclass_fields__)
        if marker.args or unknown:
            what = (
                f"has no argument {', '.join(sorted(unknown))}" if unknown else "takes named arguments only"
            )
            _fail(
                f"@pytest.mark.remainder {what}",
                fix=f"use some of {', '.join(_Requirement.__dataclass_fields__)}",
            )
        given = {**marker.kwargs, **given}
    return _Requirement(**given)


def _tasks_of_suite(config: pytest.Config) -> list[str]:
    from remainder.errors import TaskError
    from remainder.task.listing import task_names

    try:
        return task_names(config.getoption("remainder_suite"))
    except TaskError as problem:
        raise pytest.UsageError(f"--remainder-suite: {problem}") from None


def _fail(what: str, *, fix: str | None = None) -> NoReturn:
    """Fail the test with one message: no traceback, and nothing of what led to it."""
    from remainder.errors import RemainderError

    raise pytest.fail.Exception(f"remainder: {RemainderError(what, fix=fix)}", pytrace=False) from None
