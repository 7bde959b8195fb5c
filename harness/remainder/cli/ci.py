"""The command `remainder ci`: `run` and `compare --fail-on-regression`, and what a job shows of them.

It measures nothing by itself. In a folder it leaves, for each task, the record, its table, its figure, and
the comparison with the stored record. Where the files of GitHub's runners are there (`GITHUB_OUTPUT`,
`GITHUB_STEP_SUMMARY`), outputs and a summary go into them too, whatever the outcome.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from remainder.cli import complete
from remainder.cli.options import (
    IgnoreOption,
    SuiteOption,
    TasksOption,
    TrustOption,
)
from remainder.cli.records import compare, explain
from remainder.cli.run import run
from remainder.cli.run_options import TierOption
from remainder.cli.tasks import show
from remainder.errors import RecordError, RemainderError, TaskError

__all__ = ["ci"]

_MARGINS = "gap_raw=0.01"
_MADE = (".json", ".md", ".png", ".rows.json", ".compare.md", ".error")


@dataclass(frozen=True)
class _Case:
    """A task, and the files that a job leaves of it."""

    task: str
    """The name that was given."""
    place: str
    """The name by which `run` finds it."""
    stem: Path
    """The path of its files, without their endings."""
    record: Path | None
    """The stored record."""

    def file(self, ending: str) -> Path:
        return self.stem.with_name(self.stem.name + ending)


def ci(
    submission: Annotated[
        str,
        typer.Option(
            metavar="SUBMISSION", help="What `run --with` takes.", autocompletion=complete.submissions
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASKS",
            help="Ids of tasks or their folders, separated by blanks or new lines; may be given again.",
            autocompletion=complete.tasks,
        ),
    ] = None,
    suite: SuiteOption = None,
    folder: TasksOption = None,
    tier: TierOption = "quick",
    baseline_record: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="The stored record to compare with; of several tasks, the folder that holds them, named as "
            "in --out. Default: no comparison.",
        ),
    ] = "",
    fail_on_regression: Annotated[
        str,
        typer.Option(
            metavar="KEY=MARGIN,...",
            help="Margins by which the score may be worse; empty: never fail. docs/ci.md lists the keys.",
        ),
    ] = _MARGINS,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where records, tables and figures go.")] = Path(
        "remainder-results"
    ),
    ignore_field: IgnoreOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Run, and fail if the score got worse than a stored record: for a job of continuous integration."""
    from remainder.report.gate import parse_margins

    cases: list[_Case] = []
    measured: list[_Case] = []
    try:
        parse_margins(fail_on_regression or _MARGINS)
        cases += _cases(" ".join(task or ()).split(), suite or None, folder, baseline_record, out)
        for case in cases:
            _require_measurable(case, tier)
            _require_comparable(case, fail_on_regression)
        for case in cases:
            _measure(case, submission, tier, out, ignore_field, trust_code)
            measured.append(case)
        _put_outputs(cases)
        codes = [_compare(case, fail_on_regression) for case in cases if case.record is not None]
    finally:
        _write_summary(cases, measured)
    raise typer.Exit(max(codes, default=0))


def _cases(
    names: Sequence[str], suite: str | None, folder: Path | None, baseline: str, out: Path
) -> list[_Case]:
    """The tasks in order, each with the record that it is compared with.

    Raises:
        TaskError, RecordError: none is named, one is not there, or a record cannot be the one that is meant.
    """
    from remainder.base.files import require_folder
    from remainder.task.listing import task_in, task_names

    places = {name: task_in(folder, name) for name in names}
    if suite is not None:
        found = task_names(suite, folder)
        places |= {place: place for place in found if place not in places.values()}
    if not places:
        raise TaskError("no task is named", fix="give `task` or `suite`; `remainder tasks` lists all")
    if Path(baseline).is_file() and len(places) > 1:
        raise RecordError(
            f"{baseline} is one record, and there are {len(places)} tasks",
            fix="give a folder of records as `baseline-record`",
        )
    require_folder(out, "--out", RecordError)
    cases: list[_Case] = []
    for name, place in places.items():
        stem = out / re.sub(r"[^A-Za-z0-9_]", "-", name).lstrip("-")
        record = Path(baseline) if baseline else None
        if record is not None and record.is_dir():
            record = record / f"{stem.name}.json"
        if any(case.stem == stem for case in cases):
            raise TaskError(f"{name}: another task has files called {stem.name} too", fix="run it by itself")
        cases.append(_Case(name, place, stem, record))
    return cases


def _require_measurable(case: _Case, tier: str) -> None:
    """Raise TaskError unless the task is there, and has the tier."""
    from remainder.task.spec import load_task

    load_task(case.place).tier(tier)


def _require_comparable(case: _Case, margins: str) -> None:
    """Say before anything is measured what is wrong with a stored record or with the margins."""
    from remainder.record.store import read_record
    from remainder.task.spec import load_task

    if case.record is None:
        return
    made = case.file(".json")
    if made.exists() and case.record.exists() and made.samefile(case.record):
        raise RecordError(
            f"{case.record} would be overwritten before it is compared with", fix="give another folder `out`"
        )
    _said(compare, str(case.record), str(case.record), margins or None, "markdown")
    stored, task = read_record(case.record).record.task, load_task(case.place)
    if stored.hash != task.hash:
        raise RecordError(
            f"{case.record} is of {stored.id} {stored.version} (hash {stored.hash[:12]}…), and the task "
            f"{task.id} is {task.version} (hash {task.hash[:12]}…) here",
            fix="write the stored record anew: remainder run TASK --with SUBMISSION --json FILE",
        )


def _measure(
    case: _Case, submission: str, tier: str, out: Path, ignored: list[str] | None, trust_code: bool
) -> None:
    """Measure a task, and write its record, its tables and its figure."""
    for ending in _MADE:
        case.file(ending).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    made = case.file(".json")
    table = _said(
        run,
        [case.place],
        with_=[submission],
        ignore_field=ignored,
        trust_code=trust_code,
        tier=tier,
        out=out / "records",
        json=made,
        format="markdown",
    )
    case.file(".md").write_text(table, encoding="utf-8")
    print(table)
    explain(str(made), save=case.file(".png"))
    case.file(".rows.json").write_text(_said(show, [str(made)], format="json"), encoding="utf-8")


def _compare(case: _Case, margins: str) -> int:
    """Compare with the stored record, write and print what is found, and give the exit code."""
    found, code = io.StringIO(), 0
    try:
        with redirect_stdout(found):
            compare(str(case.record), str(case.file(".json")), margins or None, "markdown")
    except RemainderError as problem:
        code = problem.exit_code
        case.file(".error").write_text(f"remainder: {problem}\n", encoding="utf-8")
    case.file(".compare.md").write_text(found.getvalue(), encoding="utf-8")
    print(found.getvalue())
    if error := _text(case.file(".error")):
        print(error, end="", file=sys.stderr)
    return code


def _said(command: Callable[..., object], *arguments: object, **options: object) -> str:
    """The text that a command prints to standard output."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        command(*arguments, **options)
    return printed.getvalue()


def _put_outputs(cases: Sequence[_Case]) -> None:
    """Put the outputs of the Action where a runner looks for them."""
    if not (file := os.environ.get("GITHUB_OUTPUT")):
        return
    rows = [json.loads(case.file(".rows.json").read_text(encoding="utf-8"))[0] for case in cases]
    outputs = {
        "record": str(cases[0].file(".json")),
        **{name.replace("_", "-"): rows[0][name] for name in ("gap_raw", "gap_gaussian")},
        "results": json.dumps(rows),
    }
    lines = [f"{name}={'' if value is None else value}" for name, value in outputs.items()]
    if any("\n" in line for line in lines):
        raise RecordError("a path with a line break cannot be an output", fix="give another folder `out`")
    with Path(file).open("a", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def _write_summary(cases: Sequence[_Case], measured: Sequence[_Case]) -> None:
    """Write the tables where a runner shows them, whatever became of the job."""
    if not (file := os.environ.get("GITHUB_STEP_SUMMARY")):
        return
    texts = ["## Remainder"] if cases else ["## Remainder", "Nothing was measured: see the log."]
    for case in cases:
        if case not in measured:  # files of that name are of another job
            texts.append(f"{case.task} was not measured: see the log.")
            continue
        texts += [_text(case.file(ending)) for ending in (".md", ".compare.md")]
        texts.append(f"```\n{error}```" if (error := _text(case.file(".error"))) else "")
    with Path(file).open("a", encoding="utf-8") as stream:
        stream.write("\n\n".join(filter(None, texts)) + "\n")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
