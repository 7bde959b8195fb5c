"""The list of a run: every submission on every task, in the order in which they were named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.base.cache import Progress
from remainder.base.files import require_folder
from remainder.base.paths import SECOND_PACKAGE
from remainder.errors import RecordError, RemainderError
from remainder.loading.loaded import LoadedTask
from remainder.runs.job import Openings, Source
from remainder.runs.work import cell_of
from remainder.submission.names import distinct, folder_of, namesakes
from remainder.submission.open import absent_baselines, baselines_for, coded_baselines, submissions_for
from remainder.submission.submission import Entry

__all__ = ["Listing", "list_cells"]


class Listing(NamedTuple):
    """The cells of a run, with the tasks that were opened for it."""

    openings: Openings
    notes: tuple[str, ...]
    """Notes for people on what is left out, called otherwise, or lies beside other content."""
    problems: Mapping[int, RemainderError]
    """Tasks that have no cells, since they could not be opened, by their place."""
    unread: tuple[tuple[str, RemainderError], ...]
    """Submissions that have no cell, since they could not be opened: the name and its task, and why."""


def list_cells(
    sources: Sequence[Source],
    named: Sequence[str],
    out: Path,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Listing:
    """Open each task, and list what is scored on it.

    Args:
        sources: the tasks.
        named: submissions as `remainder run --with` takes them; default: all of each task's.
        out: the folder of results.
        fresh: whether what is finished, rows and batches, is measured again.
        progress: told what is being done.

    Raises:
        RemainderError: a task or a submission cannot be opened, and there is no other.
    """
    openings = Openings(sources, progress=progress, out=None if fresh else out.absolute())
    notes: list[str] = []
    problems: dict[int, RemainderError] = {}
    unread: list[tuple[str, RemainderError]] = []
    for number, source in enumerate(sources):
        try:
            loaded = openings.task(number)
        except RemainderError as problem:
            if len(sources) == 1:
                raise
            problems[number] = problem
            continue
        places, entries, faults = _named(loaded, named, source)
        if not named and (absent := absent_baselines(loaded.task)):
            notes.append(
                f"{loaded.task.id}: not measured, since they come with {SECOND_PACKAGE}: {', '.join(absent)} "
                f"(pip install {SECOND_PACKAGE})"
            )
        if not named and not source.trusted and (coded := coded_baselines(loaded.task)):
            notes.append(
                f"{loaded.task.id}: not measured, since they are code: {', '.join(coded)} (read it, and add "
                "--trust-code)"
            )
        unread += [(f"{name} on {loaded.task.id}", problem) for name, problem in faults]
        # In the order of `distinct`, which keeps the first of equal ones, and may call others otherwise.
        first: dict[tuple[str, str], str] = {}
        for place, entry in zip(places, entries, strict=True):
            first.setdefault((entry.name, entry.hash), place)
        different, said = distinct(entries)
        folders = [folder_of(out, loaded.task, entry.name) for entry in different]
        for folder in folders:
            require_folder(folder, "--out", RecordError)
        notes += [*said, *namesakes(different, folders)]
        cells = [
            cell_of(loaded.task, entry, source.plan, source=number, named=place)
            for place, entry in zip(first.values(), different, strict=True)
        ]
        openings.put(number, loaded, cells, different)
    return Listing(openings, tuple(dict.fromkeys(notes)), problems, tuple(unread))


class _Named(NamedTuple):
    places: list[str]
    """The name of each for another process."""
    entries: list[Entry]
    faults: list[tuple[str, RemainderError]]
    """The submissions that could not be opened."""


def _named(loaded: LoadedTask, named: Sequence[str], source: Source) -> _Named:
    """Entries that are scored on a task."""
    if not named:
        entries = list(submissions_for(loaded, trust_code=source.trusted))
        own = len(entries) - len(baselines_for(loaded.task, trust_code=source.trusted))
        places = [entry.name if i < own else f"baselines/{entry.name}" for i, entry in enumerate(entries)]
        return _Named(places, entries, [])
    found = _Named([], [], [])
    for name in named:
        try:
            found.entries.extend(submissions_for(loaded, [name], source.ignored, trust_code=source.trusted))
            found.places.append(_place(name))
        except RemainderError as problem:
            found.faults.append((name, problem))
    if not found.entries:
        raise found.faults[0][1]
    return found


def _place(name: str) -> str:
    """A path that means the same in another folder, or a name as it is."""
    return str(Path(name).absolute()) if not name.startswith("hub:") and Path(name).exists() else name
