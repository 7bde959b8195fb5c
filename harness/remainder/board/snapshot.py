"""Snapshots: a frozen, named list of records, whose one hash says everything that was on the board.

`leaderboard/snapshots/<name>.json` holds the records by id with the hashes of both their files, the tasks
that they are of, and the root of a Merkle tree over the records (RFC 6962, section 2.1, with SHA-256):

1. a leaf is one entry of `records` as compact canonical JSON; its hash is SHA-256(0x00 ‖ leaf);
2. a node over n > 1 leaves is SHA-256(0x01 ‖ left ‖ right), the left one over the largest power of two below
   n of them;
3. leaves are in the order of their record ids. The tree of no leaf is SHA-256 of nothing.

So a leaf can never pass for a node, and that a record belongs to a snapshot can be shown with log2 n hashes.
A file that is there is never written again; from the same records it can be rebuilt byte for byte, those that
moved to an archive since included. A name is a label: the date of a snapshot is that of its commit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import ValidationError

from remainder.base.files import LARGEST, present, require_file, require_folder
from remainder.base.messages import placed_fault
from remainder.base.paths import is_checkout, project_root
from remainder.base.wrapping import command
from remainder.board.listing import record_files
from remainder.board.shelf import chosen_results, place_in, relative_place, results_folder
from remainder.board.verify import verify_paths
from remainder.errors import RecordError
from remainder.record.json import canonical_json, sha256, write_atomically
from remainder.record.number import FrozenModel, Sha256
from remainder.record.schema import TaskInfo
from remainder.record.store import read_sealed
from remainder.record.withdrawn import read_withdrawn

__all__ = [
    "Snapshot",
    "SnapshotEntry",
    "check_snapshot",
    "freeze",
    "leaves_of",
    "make_snapshot",
    "merkle_root",
    "read_snapshot",
    "results_folder",
    "snapshots_folder",
]

_NAME = r"20\d\d\.(0[1-9]|1[0-2])(\.\d{1,3})?"
_TREE: Literal["RFC 6962, SHA-256"] = "RFC 6962, SHA-256"


class SnapshotEntry(FrozenModel):
    """A record of a snapshot."""

    record_id: Sha256
    path: str
    """Relative to the folder of results."""
    sha256: Sha256
    """Hash of the JSON file."""
    values_sha256: Sha256
    """Hash of the uncompressed per-document values."""


class Snapshot(FrozenModel):
    """The content of a snapshot's file."""

    schema_version: Literal[1]
    name: str
    tree: Literal["RFC 6962, SHA-256"]
    root: Sha256
    tasks: tuple[TaskInfo, ...]
    records: tuple[SnapshotEntry, ...]

    @property
    def content(self) -> bytes:
        """The bytes of its file."""
        return (canonical_json(self.model_dump(mode="json"), indent=1) + "\n").encode()


def snapshots_folder() -> Path:
    """The folder of the benchmark's own snapshots."""
    return project_root() / "leaderboard" / "snapshots"


def merkle_root(leaves: Sequence[bytes]) -> str:
    """Root of the tree over `leaves`, as 64 hexadecimal digits; see the module."""
    return _tree(leaves).hex()


def leaves_of(entries: Sequence[SnapshotEntry]) -> list[bytes]:
    """The leaves of the tree over entries, in their order."""
    return [canonical_json(entry.model_dump(mode="json")).encode() for entry in entries]


def freeze(name: str, *, results: Path | None = None, folder: Path | None = None) -> Path:
    """Verify all records and write the snapshot `name` of those that were not withdrawn; gives its file.

    Args:
        name: year and month, e.g. `2026.12`; a number may follow, e.g. `2026.12.1`.
        results: folder of the records; default: the benchmark's own.
        folder: where snapshots lie; default: the benchmark's own.

    Raises:
        RecordError: if there is such a snapshot already, or a record does not pass.
    """
    target = _file(name, folder)
    if folder is None and not is_checkout():
        raise RecordError(
            "this is an installed package, whose snapshots are those that it came with",
            fix="freeze in a checkout of the repository, or name a folder by --out",
        )
    root = chosen_results(results)
    require_folder(target.parent, "--out", RecordError)
    if target.exists():
        raise RecordError(f"{target}: is frozen, and never written again", fix="choose another name")
    verdicts = verify_paths([root], board=True)
    faulty = [verdict for verdict in verdicts if not verdict.passed]
    if faulty:
        first = faulty[0]
        raise RecordError(
            f"{len(faulty)} of {len(verdicts)} files do not pass, the first: {first.path}: {first.faults[0]}",
            fix=f"mend or remove what `{command(['remainder', 'verify', str(root)])}` names, and freeze then",
        )
    gone = read_withdrawn(root)
    paths = [path for path in record_files(root)[0] if path.stem not in gone]
    write_atomically(target, make_snapshot(name, root, paths).content)
    return target


def make_snapshot(name: str, results: Path, paths: Sequence[Path]) -> Snapshot:
    """The snapshot of the records at `paths`, in any order; nothing is written.

    Args:
        results: the folder that they lie below, or whose archives they lie in.

    Raises:
        RecordError: if a record is unreadable, or there is none.
    """
    entries, tasks = [], {}
    for path in paths:
        record = read_sealed(path)
        entries.append(
            SnapshotEntry(
                record_id=record.record_id,
                path=relative_place(path, results),
                sha256=sha256(path.read_bytes()),
                values_sha256=record.documents.sha256,
            )
        )
        tasks[(record.task.id, record.task.version, record.task.hash)] = record.task
    if not entries:
        raise RecordError(f"{results}: holds no record to freeze", fix="name the folder of results")
    entries.sort(key=lambda entry: entry.record_id)
    return Snapshot(
        schema_version=1,
        name=name,
        tree=_TREE,
        root=merkle_root(leaves_of(entries)),
        tasks=tuple(tasks[key] for key in sorted(tasks)),
        records=tuple(entries),
    )


def read_snapshot(name: str, *, folder: Path | None = None) -> Snapshot:
    """The snapshot called `name`.

    Raises:
        RecordError: if there is none, or its file is not one.
    """
    path = _file(name, folder)
    if not present(path):
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "none yet"
        raise RecordError(f"there is no snapshot {name!r}", fix=f"choose one of: {known}")
    require_file(path, most=LARGEST, error=RecordError)
    try:
        found = Snapshot.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        raise RecordError(f"{path}: {placed_fault(problem)}", fix="restore the file as it was") from None
    if found.name != name:
        raise RecordError(f"{path}: name is {found.name!r}", fix="restore the file as it was")
    return found


def check_snapshot(name: str, *, results: Path | None = None, folder: Path | None = None) -> Snapshot:
    """Rebuild a snapshot from the records that it lists, and compare it byte for byte.

    Raises:
        RecordError: if a record is gone or changed, or the file is not what its records give.
    """
    root, path = chosen_results(results), _file(name, folder)
    stated = read_snapshot(name, folder=folder)
    for entry in stated.records:
        place = PurePosixPath(entry.path)
        if place.is_absolute() or ".." in place.parts:
            raise RecordError(f"{path}: {entry.path!a} lies outside of the results", fix=_RESTORE)
    rebuilt = make_snapshot(name, root, [place_in(root, entry.path) for entry in stated.records])
    if rebuilt.content != path.read_bytes():
        changed = sorted(set(rebuilt.records) ^ set(stated.records), key=lambda entry: entry.path)
        which = f"; {changed[0].path} differs" if changed else ""
        raise RecordError(
            f"{path}: root {stated.root[:12]}…, its records give {rebuilt.root[:12]}…{which}", fix=_RESTORE
        )
    return rebuilt


_RESTORE = "restore the file and its records as they were frozen; they are never edited"


def _file(name: str, folder: Path | None) -> Path:
    if not re.fullmatch(_NAME, name):
        raise RecordError(f"{name[:40]!a} is not the name of a snapshot", fix="give year and month: 2026.12")
    return (folder or snapshots_folder()) / f"{name}.json"


def _tree(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _tree(leaves[:split]) + _tree(leaves[split:])).digest()
