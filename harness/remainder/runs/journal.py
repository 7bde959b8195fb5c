"""The journal of a run: its list of cells, and what became of each, one line of JSON an event.

1. It lies in `.runs/<run>/journal.jsonl` in the folder of results, where <run> is the hash of the list. Who
   gives the same command again goes on with the same journal; so does a second process at the same time.
2. The first line is the list, which never changes. Lines are only added, each flushed to the disk.
3. A process that is killed may leave a line without an end. It never happened: the next writer cuts it off.
4. Nothing depends on the journal: what is finished is what has a record. It is for people, and tells a run
   what went wrong before.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from remainder.base.files import explained
from remainder.errors import RecordError
from remainder.record.turns import RUNS
from remainder.runs.work import Cell, identity_of

__all__ = ["VERSION", "Journal", "Past", "open_journal"]

VERSION = 1
"""Version of the form of journals."""

_WAIT = 60.0  # seconds for another process to add its line


class Past(NamedTuple):
    """The fate of cells until now, by their places in the list."""

    failed: frozenset[int]
    """The last thing that is known of them is an error."""
    begun: frozenset[int]
    """Cells that were claimed, and then nothing: their process was killed, or is measuring them now."""


class Journal:
    """A journal that lines are added to; see this module's text."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, event: str, **fields: Any) -> None:
        """Add a line, with this process and the time.

        Raises:
            RecordError: it cannot be written.
        """
        who = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "process": os.getpid()}
        self._append({"event": event, **fields, **who, "host": platform.node()})

    def begin(self, cells: Sequence[Cell]) -> None:
        """Write the list, if it is not there."""
        listed = [{"task": cell.task, "submission": cell.name, "identity": cell.identity} for cell in cells]
        head = {"journal": VERSION, "run": identity_of(cells), "cells": listed}
        self._append(head, only_first=True)

    def past(self) -> Past:
        """The fate of the cells until now."""
        failed: set[int] = set()
        begun: set[int] = set()
        for event in self.read()[1:]:
            numbers = set(event.get("cells", ()))
            failed -= numbers
            begun -= numbers
            if event["event"] == "failed":
                failed |= numbers
            elif event["event"] == "begun":
                begun |= numbers
        return Past(frozenset(failed), frozenset(begun))

    def read(self) -> list[dict[str, Any]]:
        """All whole lines, the list first.

        Raises:
            RecordError: it is of another version, or damaged.
        """
        with explained(self.path, RecordError):
            *lines, _half = self.path.read_bytes().split(b"\n")
        fix = f"remove the folder {self.path.parent}; finished rows are kept in their records all the same"
        found = []
        for number, line in enumerate(lines, 1):
            try:
                content = json.loads(line)
                version = content.get("journal") if number == 1 else content["event"] and VERSION
            except (ValueError, KeyError, AttributeError) as problem:
                raise RecordError(
                    f"{self.path}: line {number} is no event of a journal ({problem!r})", fix=fix
                ) from None
            if version != VERSION:
                raise RecordError(
                    f"{self.path}: is a journal of version {version}; this package reads {VERSION}",
                    fix=f"use the version of the package that wrote it, name another --out, or {fix}",
                )
            found.append(content)
        return found

    def _append(self, content: dict[str, Any], *, only_first: bool = False) -> None:
        data = (json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        with explained(self.path, RecordError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=_WAIT), self.path.open("a+b") as file:
                file.seek(0)
                whole = file.read().rfind(b"\n") + 1
                if only_first and whole:
                    return
                file.truncate(whole)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def open_journal(out: Path, cells: Sequence[Cell]) -> Journal:
    """The journal of a list of cells, begun if there is none.

    Raises:
        RecordError: it is of another version or damaged, or cannot be written.
    """
    journal = Journal(out / RUNS / identity_of(cells) / "journal.jsonl")
    journal.begin(cells)
    journal.read()
    return journal
