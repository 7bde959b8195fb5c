"""The files of a folder of results: records, what belongs to them, and what does not lie there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.board.origin import Remark, check_stated
from remainder.board.shelf import is_board
from remainder.errors import RecordError
from remainder.record.flow_file import FLOW, flow_place, read_flow
from remainder.record.layers_file import LAYERS, layers_place, read_layers
from remainder.record.levels_file import LEVELS, levels_place, read_levels
from remainder.record.modes_file import MODES, modes_place, read_modes
from remainder.record.order import ORDER, read_order
from remainder.record.schema import Record, SubmissionInfo
from remainder.record.tissues_file import TISSUES, read_tissues, tissues_place
from remainder.record.turns import RUNS
from remainder.record.withdrawn import WITHDRAWN, check_withdrawn

__all__ = ["JOINT", "LINK", "VALUES", "is_named_beside", "is_values", "record_files"]

VALUES = ".csv.gz"
LINK = "is a link; results are plain files"
_OWN = "every number follows from the values that it holds"
_STRAY = "take what is no record out of a folder of results"
_LISTS: dict[str, Callable[[Path], object]] = {ORDER: read_order, WITHDRAWN: check_withdrawn}
"""Files at the root of a folder of results that are no records, with what they are checked by."""


class _Joint(NamedTuple):
    """A file that follows from records."""

    expected: Path
    """The place where a folder of results has it."""
    records: Sequence[Record]
    """The values that it follows from; None where it holds them itself."""
    stated: SubmissionInfo | None
    """A submission that it states besides those of the records, if any."""


def _flow(path: Path) -> _Joint:
    flow, records = read_flow(path)
    return _Joint(flow_place(flow, Path()), records, flow.submission)


def _levels(path: Path) -> _Joint:
    levels, records = read_levels(path)
    return _Joint(levels_place(levels, Path()), records, None)


def _layers(path: Path) -> _Joint:
    return _Joint(layers_place(read_layers(path).chain, Path()), (), None)


def _modes(path: Path) -> _Joint:
    return _Joint(modes_place(read_modes(path).found, Path()), (), None)


def _tissues(path: Path) -> _Joint:
    return _Joint(tissues_place(read_tissues(path).tissues, Path()), (), None)


JOINT: dict[str, Callable[[Path], _Joint]] = {
    FLOW: _flow,
    LAYERS.ending: _layers,
    LEVELS.ending: _levels,
    MODES.ending: _modes,
    TISSUES.ending: _tissues,
}
"""Files beside the folders of records, by their endings, with what reads them; all of these are verified."""


def record_files(path: Path) -> tuple[list[Path], list[tuple[Path, Remark]]]:
    """Records at or below a path, sorted; and what lies there besides, each with what is wrong with it.

    Of a file that follows from records, such as a flow or levels, these are the records. One that holds its
    own values has a note.
    """
    if path.suffix in JOINT and path.is_file():
        return _of_joint(path)
    if not path.is_dir():
        return [path], []
    records: list[Path] = []
    strays: list[tuple[Path, Remark]] = []
    for folder, names, files in os.walk(path):
        names[:] = [name for name in names if name != RUNS]
        for name, check in _LISTS.items():
            file = Path(folder) / name
            if name in files and not file.is_symlink() and (Path(folder) == path or is_board(Path(folder))):
                files.remove(name)
                try:
                    check(Path(folder))
                except RecordError as problem:
                    strays.append(_stray(file, problem.what))
        strays += [_stray(Path(folder) / name, LINK) for name in names if (Path(folder) / name).is_symlink()]
        for name in sorted(files):
            file = Path(folder) / name
            if file.suffix == ".json":
                records.append(file)
            elif file.is_symlink():
                strays.append(_stray(file, LINK))
            elif file.suffix in JOINT:
                strays += _at_fault(file, placed=True)
            elif not name.endswith(VALUES):
                strays.append(_stray(file, "is neither a record nor its values"))
            elif not is_values(file):
                strays.append(_stray(file, "are values without their record"))
    return sorted(records), sorted(strays)


def is_values(file: Path) -> bool:
    """Whether a file holds the values of a record, or of tokens, that lie beside it."""
    name = file.name.removesuffix(VALUES)
    own = file.with_name(name) if name.endswith(TISSUES.ending) else file.with_name(f"{name}.json")
    return name != file.name and own.is_file()


def is_named_beside(record: Path) -> bool:
    """Whether a flow or levels beside the folder of a record name it."""
    beside = [path for path in record.parent.parent.glob("*") if path.suffix in JOINT and path.is_file()]
    return any(record.stem.encode() in path.read_bytes() for path in beside)


def _stray(file: Path, why: str) -> tuple[Path, Remark]:
    return file, Remark(why, fix=_STRAY)


def _of_joint(path: Path) -> tuple[list[Path], list[tuple[Path, Remark]]]:
    """The records that such a file follows from; or, in their place, what is said of it."""
    if remarks := _at_fault(path, placed=False):
        return [], remarks
    records = JOINT[path.suffix](path).records
    return sorted(file for record in records for file in path.parent.glob(f"*/{record.record_id}.json")), []


def _at_fault(path: Path, *, placed: bool) -> list[tuple[Path, Remark]]:
    """Such a file with what is wrong with it; nothing if it is sound and has records, else a note.

    Args:
        placed: whether its place in a folder of results is looked at too.
    """
    try:
        joint = JOINT[path.suffix](path)
    except RecordError as problem:
        return [(path, Remark(problem.what.removeprefix(f"{path}: "), fix=problem.fix))]
    expected, parts = joint.expected, path.absolute().parts
    if placed and parts[-len(expected.parts) :] != expected.parts:
        return [(path, Remark(f"lies at the wrong place; expected {expected}", fix="move it there"))]
    if not joint.records:
        return [(path, Remark(_OWN, is_fault=False))]
    if joint.stated is None:
        return []
    root = path.absolute().parents[len(expected.parts) - 1]
    board = placed and is_board(root)
    remarks = check_stated(joint.records[0], joint.stated, "whole submission", board)
    return [(path, remark) for remark in remarks if remark.is_fault]
