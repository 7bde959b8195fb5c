"""Files of lines that are only ever added: each line holds the hash of the one before.

A line is an object in canonical JSON that names a record. So a line that was edited, moved or taken out
shows, and no record has two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from remainder.base.files import LARGEST, require_file
from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.json import canonical_json, sha256, write_atomically
from remainder.record.number import FrozenModel, Sha256

__all__ = ["RESTORE", "Link", "hash_after", "read_chain", "write_chain"]

RESTORE = "restore it from the main branch (git checkout origin/main -- FILE): lines are only ever added"

_FIRST = "0" * 64  # what the first line holds in place of a hash


class Link(FrozenModel):
    """One line, and which line it follows."""

    after: Sha256
    """Hash of the line before, without its line feed; 64 zeros in the first."""
    record: Sha256
    """The `record_id`."""


_Link = TypeVar("_Link", bound=Link)


def hash_after(links: Sequence[Link]) -> str:
    """The hash that the next line holds."""
    return sha256(_line(links[-1]).encode()) if links else _FIRST


def write_chain(path: Path, links: Sequence[Link]) -> None:
    """Write all lines, whole or not at all."""
    write_atomically(path, "".join(f"{_line(link)}\n" for link in links).encode())


def read_chain(path: Path, kind: type[_Link]) -> list[_Link]:
    """All lines of a file, each of which follows from the one before.

    Raises:
        RecordError: the file is damaged, or a line was edited, moved or taken out.
    """
    require_file(path, most=LARGEST, error=RecordError)
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as problem:
        raise RecordError(f"{path}: cannot be read ({problem})", fix=RESTORE) from problem
    if not text:  # where there is no line there is no file
        raise RecordError(f"{path}: is empty", fix=RESTORE)
    if not text.endswith("\n"):
        raise RecordError(f"{path}: its last line is cut short", fix=RESTORE)
    links: list[_Link] = []
    known: set[str] = set()
    for number, line in enumerate(text.split("\n")[:-1]):
        where = f"{path}, line {number + 1}"
        try:
            link = kind.model_validate(json.loads(line))
        except (ValidationError, ValueError, RecursionError) as problem:
            raise RecordError(f"{where}: is no line of it ({message_of(problem)})", fix=RESTORE) from problem
        if line != _line(link):
            raise RecordError(f"{where}: is not in the one form that lines are written in", fix=RESTORE)
        if link.after != hash_after(links):
            raise RecordError(
                f"{where}: does not follow from the line before: a line was edited, moved or taken out",
                fix=RESTORE,
            )
        if link.record in known:
            raise RecordError(f"{where}: record {link.record[:12]} has a line already", fix=RESTORE)
        known.add(link.record)
        links.append(link)
    return links


def _line(link: Link) -> str:
    return canonical_json(link.model_dump(exclude_none=True))
