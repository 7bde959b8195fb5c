"""Snapshots as the site lists them: what they hold, how they are cited, whether their records are here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.board.cite import of_snapshot, styles
from remainder.board.merge import Fault
from remainder.board.shelf import relative_place
from remainder.board.snapshot import Snapshot, leaves_of, merkle_root, read_snapshot
from remainder.errors import RecordError
from remainder.record.json import sha256
from remainder.record.provenance import added_on

__all__ = ["Frozen", "folder_beside", "frozen", "missing"]

_NAMES = {"bibtex": "BibTeX", "cff": "Citation File Format", "apa": "APA"}


class Frozen(NamedTuple):
    """A snapshot and what the pages say of it."""

    snapshot: Snapshot
    file: Path
    date: str | None
    """Day of its commit; None where no history of the repository is at hand."""
    citations: tuple[tuple[str, str], ...]
    """Name of the style, and the text."""

    @property
    def page(self) -> str:
        """The path of its page in the site; the name holds digits and dots alone."""
        return f"snapshots/{self.snapshot.name}.html"

    @property
    def tasks(self) -> int:
        """How many tasks its records are of."""
        return len({task.id for task in self.snapshot.tasks})


def folder_beside(results: Path) -> Path:
    """The folder that holds the snapshots of these results."""
    return results.absolute().parent / "snapshots"


def frozen(folder: Path) -> tuple[list[Frozen], list[Fault]]:
    """Snapshots of a folder, the last name first; and files that are none, or whose root is not theirs."""
    found, faults = [], []
    for file in sorted(folder.glob("*.json")):
        place = f"snapshots/{file.name}"
        try:
            snapshot = read_snapshot(file.stem, folder=folder)
        except RecordError as problem:
            faults.append(Fault(place, problem.what.replace(f"{folder}/", "")))
            continue
        root = merkle_root(leaves_of(snapshot.records))
        if root != snapshot.root:
            faults.append(Fault(place, f"states the root {snapshot.root}, its entries give {root}"))
            continue
        date = added_on(file)
        cited = styles(of_snapshot(snapshot, date))
        citations = tuple((_NAMES[style], text) for style, text in cited.items())
        found.append(Frozen(snapshot, file, date, citations))
    found.sort(key=lambda one: [int(part) for part in one.snapshot.name.split(".")], reverse=True)
    return found, faults


def missing(one: Frozen, results: Path, paths: Mapping[str, Path]) -> Sequence[Fault]:
    """Records that a snapshot lists and that are gone, moved or changed; the first of them, and how many.

    Args:
        results: the folder that its paths are relative to; those of its archives are relative to each.
        paths: of the records that are there, archived ones included, by their id.
    """
    bad = []
    for entry in one.snapshot.records:
        path = paths.get(entry.record_id)
        if path is None:
            bad.append(f"{entry.path} is not among the records")
        elif (place := relative_place(path, results)) != entry.path:
            bad.append(f"{entry.path} lies elsewhere, at {place}")
        elif sha256(path.read_bytes()) != entry.sha256:
            bad.append(f"{entry.path} has changed since it was frozen")
    if not bad:
        return ()
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return (Fault(f"snapshots/{one.file.name}", f"{bad[0]}{more}"),)
