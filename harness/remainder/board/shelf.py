"""Places of records: folders of results, those that are a leaderboard, and a record's own place.

A record lies at `<root>/<task>/<N>/<submission>/<record_id>.json`. So the root is found from what the record
says of itself, whichever folder was asked for: the results, one task of them, or one submission.

In a leaderboard a name stands for one content for good, and a record elsewhere than it says is at fault.
Records of a protocol that is over lie in `leaderboard/archive/<protocol>/results`, in the same form, with the
lock of their tasks and their verdicts beside them. They are proved by their hashes, and never recomputed.
Anybody else's results may hold copies, tasks of their own, and other content under a name that comes with the
benchmark: such records are told apart by hash, and what they cannot be compared with is noted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remainder.base.paths import project_root
from remainder.board import origin
from remainder.board.origin import Peer
from remainder.errors import RecordError
from remainder.record.schema import Record
from remainder.record.store import read_summary

__all__ = [
    "LARGEST_JSON",
    "Shelf",
    "archived_protocol",
    "archives",
    "chosen_results",
    "is_board",
    "place_in",
    "relative_place",
    "results_folder",
    "results_root",
]

LARGEST_JSON = 4_000_000
"""Bytes of the largest record that is read; one with every rung has 40,000."""


def results_folder() -> Path:
    """The folder of the benchmark's own records."""
    return project_root() / "leaderboard" / "results"


def chosen_results(named: Path | None) -> Path:
    """The folder of records that is meant: the one that is named, by default the benchmark's own.

    Raises:
        RecordError: none is named, and this is an installed package, which has none.
    """
    if named is None and not results_folder().is_dir():
        raise RecordError(
            "an installed package carries no records, but one row of each (`remainder show SUITE/TASK`)",
            fix="name a folder of records by --results, or run this in a checkout of the repository",
        )
    return named or results_folder()


def archives(results: Path) -> list[Path]:
    """The folders of archived results beside a leaderboard's, those of the newest protocol first."""
    found = (results.absolute().parent / "archive").glob("*/results")
    return sorted(found, key=lambda root: (len(root.parent.name), root.parent.name), reverse=True)


def archived_protocol(root: Path) -> str | None:
    """The protocol whose records an archive's folder of results holds; None of any other folder."""
    parts = root.absolute().parts
    return parts[-2] if parts[-4:-2] == ("leaderboard", "archive") and parts[-1] == "results" else None


def place_in(results: Path, relative: str) -> Path:
    """The file at a place relative to a folder of results: there, or in the archives beside it."""
    for root in archives(results):
        if not (results / relative).exists() and (root / relative).exists():
            return root / relative
    return results / relative


def relative_place(path: Path, results: Path) -> str:
    """The place of a record's file relative to its folder of results, or to the archive that it lies in.

    Raises:
        ValueError: it lies in neither.
    """
    root = next((root for root in archives(results) if path.absolute().is_relative_to(root)), results)
    return (path if root is results else path.absolute()).relative_to(root).as_posix()


class Shelf:
    """A folder of results, and what its records share.

    Args:
        root: that holds `<task>/<N>/<submission>/<record_id>.json`.
        board: whether names and places there are held to what a leaderboard asks for.
    """

    def __init__(self, root: Path, *, board: bool = True) -> None:
        self.root = root
        self.board = board
        self._peers: dict[Path, dict[Path, Peer]] = {}
        self._read: dict[Path, Record | None] = {}

    def place(self, record: Record) -> Path:
        """The place of a record; nested interpretations have a folder `<submission>-to-<finer>`."""
        major = record.task.version.partition("-")[0]
        return self.root / record.task.id / major / record.submission.name / f"{record.record_id}.json"

    def peers(self, record: Record) -> list[Peer]:
        """All records of the task and major version, those that cannot be read left out: each is at fault
        when it is verified itself."""
        return list(self._around(record).values())

    def same_content(self, record: Record) -> list[Record]:
        """Other records of the same content, tier and dtype; those that cannot be read are left out."""
        around = self._around(record)
        own = origin.peer_of(record.model_dump(mode="json"))
        paths = [
            path
            for path, peer in around.items()
            if peer.content == own.content and peer.record_id != own.record_id
        ]
        for path in paths:
            if path not in self._read:
                self._read[path] = _readable(path)
        return [found for path in paths if (found := self._read[path]) is not None]

    def _around(self, record: Record) -> dict[Path, Peer]:
        folder = self.root / record.task.id / record.task.version.partition("-")[0]
        if folder not in self._peers:
            self._peers[folder] = dict(_peers(folder))
        return self._peers[folder]


def is_board(root: Path) -> bool:
    """Whether a folder of results is that of a leaderboard: the benchmark's own, another checkout's, or an
    archive."""
    return root.resolve() == results_folder().resolve() or _ends_like_a_board(root.resolve())


def results_root(path: Path) -> Path | None:
    """The folder of results that the record at `path` belongs to; None if its place is of none.

    A leaderboard holds what lies below it. Elsewhere the folders above a record are those of its task and
    version, as it names them itself.
    """
    file = path.resolve()
    own = results_folder()
    if file.is_relative_to(own.resolve()):
        return own
    for folder in file.parents:
        if _ends_like_a_board(folder):
            return folder
    try:
        content = _content(file)
        expected = (*content["task"]["id"].split("/"), content["task"]["version"].partition("-")[0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # it does not say where it belongs; reading it will say what is wrong
    above = file.parent.parent  # of the submission's folder
    if above.parts[-len(expected) :] != expected or len(above.parts) <= len(expected):
        return None
    return above.parents[len(expected) - 1]


def _ends_like_a_board(folder: Path) -> bool:
    return folder.parts[-2:] == ("leaderboard", "results") or archived_protocol(folder) is not None


def _content(path: Path) -> Any:
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} is no record")
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no record")
    return content


def _readable(path: Path) -> Record | None:
    try:
        return read_summary(path)
    except RecordError:
        return None


def _peers(folder: Path) -> Iterator[tuple[Path, Peer]]:
    for path in sorted(folder.glob("*/*.json")):
        if path.is_symlink():
            continue
        try:
            yield path, origin.peer_of(_content(path))
        except (RecordError, OSError, ValueError, RecursionError):
            continue
