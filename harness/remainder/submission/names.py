"""Rows of one table that can be told apart: nothing is run twice, and no two things have one name.

1. The same thing under one name, given twice, is run once.
2. Folders without a `submission.toml` are called after themselves. Where several are called the same, each is
   called by as many of the folders above it as tell them apart.
3. Submissions that name themselves keep their names; two of one name and other content are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.base.files import present
from remainder.errors import InterpretationError, RecordError
from remainder.record.naming import differing_ends, shortened
from remainder.record.store import read_summary
from remainder.submission.submission import Entry, Submission
from remainder.task.spec import Task

__all__ = ["Distinct", "distinct", "folder_of", "namesakes"]


class Distinct(NamedTuple):
    """Entries to run, in the order in which they were named."""

    entries: list[Entry]
    notes: tuple[str, ...]
    """Notes for people on what is left out or called otherwise."""


def distinct(entries: Sequence[Entry]) -> Distinct:
    """Each thing once, each under a name of its own; see this module's text.

    Raises:
        InterpretationError: two submissions that name themselves have one name and are not the same.
    """
    notes: list[str] = []
    kept: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if (entry.name, entry.hash) in kept:
            notes.append(f"{entry.name} is named more than once, with the same content: it is run once")
        kept.setdefault((entry.name, entry.hash), entry)
    found = list(kept.values())
    counts = Counter(entry.name for entry in found)
    for name in [name for name, number in counts.items() if number > 1]:
        places = [place for place, entry in enumerate(found) if entry.name == name]
        bare = [place for place in places if _parts(found[place])]
        if len(places) - len(bare) > 1:
            raise InterpretationError(
                f"{len(places)} different submissions are called {name}: a table could not tell them apart",
                fix="give each a name of its own in its submission.toml",
            )
        taken = {entry.name for place, entry in enumerate(found) if place not in bare}
        labels = _labels([_parts(found[place]) for place in bare], taken)
        for place, label in zip(bare, labels, strict=True):
            entry = found[place]
            assert isinstance(entry, Submission)
            notes.append(f"{'/'.join(_parts(entry)[-3:])} is called {label}, since others are called {name}")
            found[place] = entry.model_copy(update={"name": label})
    return Distinct(found, tuple(notes))


def folder_of(out: Path, task: Task, name: str = "") -> Path:
    """The folder of a task's records, or of those of one submission on it."""
    return out / task.id / str(task.major) / name


def namesakes(entries: Sequence[Entry], folders: Sequence[Path]) -> tuple[str, ...]:
    """Note for people which submissions share the folder of their records with other content of that name.

    Args:
        entries: what is going to be run.
        folders: where the records of each are kept.
    """
    notes = []
    for entry, folder in zip(entries, folders, strict=True):
        others = set()
        for path in sorted(folder.glob("*.json")):
            try:
                stated = read_summary(path).submission
            except RecordError:  # what is damaged is passed over when finished rows are looked for
                continue
            others |= {stated.hash} - {entry.hash}
        if others:
            notes.append(
                f"{folder} holds records of other content that is called {entry.name} too: name a record's "
                "file to `explain` and `compare`, or run it with another --out"
            )
    return tuple(notes)


def _parts(entry: Entry) -> tuple[str, ...]:
    """Parts of the path that an entry is called after; none if it has a name of its own."""
    if not isinstance(entry, Submission) or entry.folder is None or present(entry.folder / "submission.toml"):
        return ()
    return (entry.folder / (entry.method.place or ".")).resolve().parts


def _labels(paths: Sequence[tuple[str, ...]], taken: set[str]) -> list[str]:
    """The shortest ends of paths that differ from each other and from what is taken, as names.

    Raises:
        InterpretationError: no names of at most 40 letters do.
    """

    def named(parts: tuple[str, ...]) -> str:
        joined = "-".join(part for part in parts if part != "/").lower()
        label = shortened(re.sub(r"[^a-z0-9._-]", "-", joined)).strip("-._")
        return "" if label in taken else label

    labels = differing_ends(paths, named)
    if labels is None:
        raise InterpretationError(
            f"{len(paths)} folders are called {paths[0][-1]}, and a table could not tell them apart",
            fix="rename one of them, or write a submission.toml with a name into it",
        )
    return labels
