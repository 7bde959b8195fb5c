"""The record that is meant: one answer for all commands that take a record.

1. A file: the record's, or the values beside it.
2. A folder: its record with most rungs, the newest of several, if all are of one submission on one task. One
   of which only some documents were measured is taken where there is no other.
3. What no path is, is looked for in `results` of this folder, then in the benchmark's own records, and then
   in its archives: a place below them (`tiny/digits/2/digits-pca-4`, with or without the version), the name
   of a submission, or how the id of a record begins.
4. How a path begins, if one record alone begins so.

Where several are meant none is taken: the message names them. Needs no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from remainder.base.files import explained
from remainder.base.wrapping import quoted
from remainder.board.shelf import archives, results_folder
from remainder.errors import RecordError
from remainder.record.find import fullest_of, fullest_record

__all__ = ["record_of", "records_of"]

_OWN = Path("results")
"""The folder in which `remainder run` keeps records, unless another is given."""
_VALUES = ".csv.gz"
_ID = re.compile(r"[0-9a-f]{6,64}")
_WHOLE = re.compile(r"[0-9a-f]{64}")
_SHOWN = 5  # records that a message names


def record_of(what: str | Path) -> Path:
    """The file of the one record that is meant.

    Raises:
        RecordError: there is none, or more than one submission or task is meant.
    """
    path = Path(what)
    with explained(path, RecordError):
        if path.is_dir() and str(what).strip():
            return fullest_record(path)
        found = records_of(what)
    if len(found) == 1:
        return found[0]
    if all(_begins(file, str(what)) for file in found):
        raise RecordError(
            f"{len(found)} records begin with {what}: {_listed(found)}",
            fix="give more of it, or one of these",
        )
    return fullest_of(found, str(what))


def records_of(what: str | Path) -> list[Path]:
    """The files of all records that are meant, sorted; each record once.

    Raises:
        RecordError: there is none.
    """
    text = str(what)
    with explained(text, RecordError):
        for found in _meant(text):
            # One that was submitted lies in both places; files that people named may be of any record.
            once = {path.name if _WHOLE.fullmatch(path.stem) else path: path for path in reversed(found)}
            if once:
                return sorted(once.values())
    raise _unknown(text)


def _meant(text: str) -> Iterator[list[Path]]:
    """Files that may be meant, by every way of naming them in turn."""
    path = Path(text)
    if not text.strip():
        return  # an empty variable of a shell, and not this folder
    if path.is_dir():
        yield sorted(path.rglob("*.json"))
    if path.name.endswith(_VALUES):
        yield [beside] if (beside := path.with_name(path.name[: -len(_VALUES)] + ".json")).is_file() else []
    if path.exists() or path.suffix == ".json":
        yield [path]  # what is wrong with it is told when it is read
        return
    roots, old = _roots()
    if not path.is_absolute() and ".." not in path.parts and path.parts:
        for root in (*roots, *old):  # one's own before the benchmark's
            yield _below(root, path)
    if _ID.fullmatch(text):
        for among in (roots, old):
            yield [file for root in among for file in sorted(root.rglob("*.json")) if _begins(file, text)]
    if path.name and path.parent.is_dir():
        yield sorted(file for file in path.parent.glob("*.json") if file.name.startswith(path.name))


def _roots() -> tuple[list[Path], list[Path]]:
    """Folders of records: one's own and the benchmark's, and its archives."""
    board = results_folder()
    return [root for root in (_OWN, board) if root.is_dir()], archives(board)


def _below(root: Path, path: Path) -> list[Path]:
    """Records at a place below a folder of results, or of all submissions that are called so."""
    *above, name = path.parts
    folders = [root / path]
    # `<task>/<N>/<submission>`, where a task is `<suite>/<task>`; the version may be left out.
    folders += [folder for folder in root.glob("*/*/*/*") if folder.name == name and _fits(folder, above)]
    return sorted({file for folder in folders for file in folder.glob("**/*.json")})


def _fits(folder: Path, above: Sequence[str]) -> bool:
    task = folder.parts[-4:-2]
    return tuple(above) in ((), task, folder.parts[-4:-1])


def _begins(file: Path, text: str) -> bool:
    return file.name.startswith(Path(text).name)


def _listed(files: Sequence[Path]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(quoted(str(file)) for file in files[:_SHOWN]) + more


def _unknown(text: str) -> RecordError:
    if not text.strip():
        return RecordError(
            "an empty name is given in place of a record", fix="name a record; . is this folder"
        )
    roots, old = _roots()
    names = sorted({folder.name for root in (*roots, *old) for folder in root.glob("*/*/*/*")})
    near = difflib.get_close_matches(Path(text).name, names, n=3, cutoff=0.6)
    offers = f"did you mean {', '.join(near)}? Else give" if near else "give"
    return RecordError(
        f"there is no record {text!r}",
        fix=f"{offers} a record's .json file, a folder of records, a submission's name, or how a record's id "
        "begins",
    )
