"""Texts of anyone: files, folders, lists, token ids, and data sets of the hub, as documents.

What a document is, is never guessed without being said (`Text.rule`, which the task keeps):

1. Several files, or a folder of `.txt`: a document is a file. One `.txt`: it is split at blank lines.
   `split` (`files` or `blank-lines`) asks for one of the two.
2. `.jsonl` (also compressed: `.gz`, `.xz`, `.bz2`) and `.parquet`: a document is a line or a row, its text
   the field `text` or the one that `field` names.
3. A list: a document is a string, or an array of token ids; of a two-dimensional array it is a row. So are
   other sequences; what has columns or keys is refused, but for a `Dataset` of `datasets`, whose rows are
   read as those of a file.
4. `hf:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]`: a row of that split (`train`) of a data set, streamed.

Documents are called by their field `id`, if each has one of its own that can be shown, and else after the
SHA-256 of their content; they are ordered by these names. So neither their order nor the names of files
change a number. Of equal ones the first is kept, and empty ones are left out; how many is counted.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.base.files import brief, explained, require_file
from remainder.base.messages import whole_number
from remainder.errors import AssetError, TaskError
from remainder.loading.hub_texts import PREFIX, hub_rows

__all__ = ["SPLITS", "Content", "Text", "read_text"]

SPLITS = ("blank-lines", "files")
"""Ways in which documents of `.txt` are told from each other."""

Content = str | NDArray[np.int64]
"""A document's text, or its token ids [tokens]."""

_COMPRESSED: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_ID = re.compile(r"\w[\w .:-]{0,79}")
_LONGEST_NAME = 60
_HIGHEST = 2**31 - 1  # of a token id
_KINDS = ".txt, .jsonl (also .gz, .xz, .bz2) or .parquet"


class Text(NamedTuple):
    """A text as documents, ordered by their names."""

    name: str
    """The name in records, which is no path."""
    rule: str
    """A phrase on how many documents there are, and how they were told from each other."""
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    contents: tuple[Content, ...]
    left_out: tuple[str, ...] = ()
    """Phrases on what of it is no document, with counts."""

    @property
    def has_tokens(self) -> bool:
        """Whether it is token ids, and needs no tokenizer."""
        return bool(self.contents) and not isinstance(self.contents[0], str)


class _Row(NamedTuple):
    content: Content
    title: str
    id: str | None = None


class _Source(NamedTuple):
    name: str
    rule: str
    """The rule, with a `{}` for the number of documents."""
    rows: Iterable[_Row]


def read_text(
    source: Any, *, field: str = "text", split: str | None = None, first: int | None = None
) -> Text:
    """Read the documents of a text; see this module's text.

    Args:
        source: a path or several, `hf:…`, a list of strings, or token ids.
        field: of `.jsonl`, `.parquet` and data sets, the one that holds the text.
        split: how documents of `.txt` are told from each other; default: by the rule above.
        first: how many documents are read at most; default: all, of a data set of the hub 1,000.

    Raises:
        TaskError: if it is nothing of that kind, or holds no text.
        AssetError: if a file cannot be read, or the hub does not give a data set.
    """
    if split not in (None, *SPLITS):
        raise TaskError(f"the split of the text is {split!r}", fix=f"choose one of: {', '.join(SPLITS)}")
    if not isinstance(field, str):
        raise TaskError(f"the field of the text is {field!r}", fix='give its name, such as "text"')
    first = None if first is None else whole_number("first", first, 1)
    found = _source(source, field, split, first)
    every = list(islice(found.rows, first))
    rows = [row for row in every if not _is_empty(row.content)]
    if not rows:
        raise TaskError(f"the text {found.name} holds no text", fix="give one with words in it")
    for number, row in enumerate(every, 1):
        _require_letters(row.content, f"{found.name}, document {number}")
    return _text(found, rows, len(every) - len(rows))


def _require_letters(content: Content, where: str) -> None:
    """Refuse halves of letters, which JSON and Python can hold, and no tokenizer takes."""
    try:
        _name_of(content)
    except UnicodeEncodeError as problem:
        half = problem.object[problem.start : problem.end]
        raise TaskError(
            f"{where} holds {half!a}, half of a letter (a lone surrogate)",
            fix="decode the text anew, or replace such: "
            'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        ) from None


def _is_empty(content: Content) -> bool:
    return not content.strip() if isinstance(content, str) else not len(content)


def _text(found: _Source, rows: Sequence[_Row], empty: int) -> Text:
    """Name documents, leave repeated ones out, and order them."""
    kept: dict[str, _Row] = {}
    given = [row.id for row in rows if row.id is not None and _ID.fullmatch(row.id)]
    named = len(set(given)) == len(rows)
    for row in rows:
        kept.setdefault(str(row.id) if named else _name_of(row.content), row)
    rule = found.rule.format(f"{len(kept):,} document{'' if len(kept) == 1 else 's'}")
    if named:
        rule += ", called by their id"
    counts = {"empty": empty, "repeating another one": len(rows) - len(kept)}
    left_out = tuple(f"{count:,} {why}" for why, count in counts.items() if count)
    ordered = sorted(kept.items())
    return Text(
        found.name,
        rule,
        tuple(name for name, _ in ordered),
        tuple(row.title for _, row in ordered),
        tuple(row.content for _, row in ordered),
        left_out,
    )


def _name_of(content: Content) -> str:
    raw = content.encode() if isinstance(content, str) else content.astype("<i8").tobytes()
    return f"doc-{hashlib.sha256(raw).hexdigest()[:16]}"


def _source(source: Any, field: str, split: str | None, first: int | None) -> _Source:
    if isinstance(source, str) and source.startswith(PREFIX):
        data = hub_rows(source, first)
        rows = (_field_row(row, field, f"{data.name}, row {i}") for i, row in enumerate(data.rows, 1))
        return _Source(data.name, f"the first {{}} of {data.name}, field {field}", rows)
    if isinstance(source, (str, Path)):
        return _files([Path(source)], field, split)
    if hasattr(source, "column_names") and hasattr(source, "features"):  # a data set in memory
        if split is not None:
            raise TaskError(
                "a row of a data set is a document, which nothing splits", fix="leave `split` out"
            )
        rows = (_field_row(row, field, f"the data set, row {i}") for i, row in enumerate(source, 1))
        return _Source("a data set", f"{{}} of a data set, a row each, field {field}", rows)
    parts = _parts(source)
    if parts and all(isinstance(part, Path) for part in parts):
        return _files(parts, field, split)
    if not parts:
        raise TaskError("the text is empty", fix=_fix())
    if split is not None:
        raise TaskError("a list is documents already, which nothing splits", fix="leave `split` out")
    if isinstance(parts[0], str):
        return _Source("a list of strings", "{} of a list of strings", _strings(parts))
    return _Source("token ids", "{} of token ids", [_Row(ids, "") for ids in _token_ids(parts)])


def _parts(source: Any) -> list[Any]:
    """The documents in a sequence or an array.

    Raises:
        TaskError: it is none, or has keys or columns, whose names would be read as documents.
    """
    kind = type(source).__name__
    if isinstance(source, Mapping):
        raise TaskError(
            f"the text is a {kind} with keys; documents are a list",
            fix="give its documents, list(text.values()), one of its splits, or its token ids "
            '(text["input_ids"])',
        )
    if hasattr(source, "columns") or hasattr(source, "column_names"):
        raise TaskError(
            f"the text is a {kind} with columns; documents are a list",
            fix='give a column, list(table["text"])',
        )
    dimensions = getattr(source, "ndim", None)
    arrays = dimensions in (1, 2) and hasattr(source, "tolist")  # NumPy's, PyTorch's, and a column of pandas
    if isinstance(source, (bytes, bytearray, memoryview)) or not (arrays or isinstance(source, Sequence)):
        raise TaskError(f"the text is {brief(source)}, no list ({kind})", fix=_fix())
    parts = list(source)
    if hasattr(source, "index") and arrays and not all(map(_is_document, parts)):
        number, part = next((i, part) for i, part in enumerate(parts, 1) if not _is_document(part))
        raise TaskError(f"the text is a {kind}, whose value {number} is {brief(part)}", fix=_fix())
    return parts


def _is_document(part: Any) -> bool:
    return isinstance(part, str) or (hasattr(part, "__len__") and not isinstance(part, Mapping))


def _strings(parts: Sequence[Any]) -> Iterator[_Row]:
    for number, part in enumerate(parts, 1):
        if not isinstance(part, str):
            raise TaskError(
                f"document {number} of the text is {brief(part)}, and others are strings",
                fix="leave it out, or give a string",
            )
        yield _Row(str(part), "")


def _fix() -> str:
    return (
        f"give a file ({_KINDS}), a folder of .txt, {PREFIX}OWNER/NAME, a list of strings, or arrays of "
        "token ids"
    )


def _token_ids(parts: Sequence[Any]) -> Iterator[NDArray[np.int64]]:
    """Arrays of token ids, a document each; a list of numbers is one document."""
    one = all(isinstance(part, (int, np.integer)) or getattr(part, "ndim", None) == 0 for part in parts)
    for number, part in enumerate([parts] if one else parts, 1):
        try:
            array = np.asarray(part.cpu() if hasattr(part, "cpu") else part)
        except (ValueError, TypeError, RuntimeError):
            array = np.asarray("nothing")
        if (
            isinstance(part, (bytes, bytearray, Mapping))
            or array.ndim != 1
            or (array.size and array.dtype.kind not in "iu")
        ):
            raise TaskError(
                f"document {number} of the text is {brief(part)}, neither a string nor token ids",
                fix=_fix(),
            )
        wrong = array[(array < 0) | (array > _HIGHEST)] if array.size else array
        if len(wrong):
            raise TaskError(
                f"document {number} of the text has the token id {wrong[0]}",
                fix=f"ids are from 0 to {_HIGHEST}",
            )
        yield array.astype(np.int64)


def _files(paths: Sequence[Path], field: str, split: str | None) -> _Source:
    """Documents of files and folders."""
    listed = [file for path in paths for file in _listed(path)]
    kinds = {_kind(path) for path in listed}
    if len(kinds) > 1:
        raise TaskError(
            f"the text is of files of several kinds: {', '.join(sorted(kinds))}",
            fix="give one kind at a time",
        )
    name = _shown(paths[0].resolve().name if paths[0].name in ("", ".", "..") else paths[0].name)
    if len(paths) > 1:
        name += f" and {len(paths) - 1} more"
    if kinds != {".txt"}:
        if split is not None:
            raise TaskError(f"{name}: a row is a document, and nothing splits it", fix="leave `split` out")
        rows = (row for path in listed for row in _READERS[_kind(path)](path, field))
        return _Source(name, f"{{}} of {name}, a row each, field {field}", rows)
    whole = split == "files" or (split is None and (len(listed) > 1 or paths[0].is_dir()))
    rule = "a file each" if whole else "split at blank lines"
    return _Source(name, f"{{}} of {name}, {rule}", (row for path in listed for row in _plain(path, whole)))


def _shown(name: str) -> str:
    """A file's name as records can show it."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1]}…"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as problem:
        if problem.errno != errno.ENAMETOOLONG:
            raise AssetError(f"{path}: {problem.strerror}", fix="let it be readable") from None
        return False  # a whole text in place of a path


def _listed(path: Path) -> list[Path]:
    if _is_there(path) and path.is_dir():
        found = sorted(path.rglob("*.txt"))
        if not found:
            raise TaskError(
                f"the folder {path} holds no .txt", fix=f"give one that does, or a file: {_KINDS}"
            )
        return found
    if not _is_there(path):
        short = str(path) if len(str(path)) <= _LONGEST_NAME else f"{str(path)[:_LONGEST_NAME]}…"
        raise TaskError(
            f"the text {short!r}: there is no such file or folder",
            fix=f"{_fix()}; text itself is given as a list of strings",
        )
    require_file(path, error=TaskError)
    if _kind(path) not in (".txt", *_READERS):
        raise TaskError(f"{path}: a text is {_KINDS}", fix="save it as one of these")
    return [path]


def _kind(path: Path) -> str:
    """The suffix of a file, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _decoded(path: Path) -> str:
    opened = _COMPRESSED.get(path.suffix.lower(), open)
    with explained(path, AssetError):
        try:
            with opened(path, "rt", encoding="utf-8-sig") as stream:
                text: str = stream.read()
        except UnicodeDecodeError as problem:
            raise TaskError(f"{path} is no UTF-8: {problem}", fix="save it as UTF-8") from None
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as problem:
            raise AssetError(f"{path} cannot be unpacked: {problem}", fix="save or fetch it again") from None
    return text


def _plain(path: Path, whole: bool) -> Iterator[_Row]:
    text = _decoded(path)
    if whole:
        yield _Row(text.strip(), _shown(path.name))
        return
    for part in _BLANK.split(text):
        if block := part.strip():
            yield _Row(block, "")


def _lines(path: Path, field: str) -> Iterator[_Row]:
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise TaskError(f"{where} is no JSON: {problem}", fix="write one object a line") from None
        yield _field_row(row, field, where)


def _parquet(path: Path, field: str) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise _no_field(str(path), field, names)
            wanted = [name for name in ("id", "title", field) if name in names]
            number = 0
            for batch in file.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield _field_row(row, field, f"{path}, row {number}")
    except pyarrow.ArrowInvalid as problem:
        raise AssetError(
            f"{path} is no whole parquet file: {problem}", fix="save or fetch it again"
        ) from None


_READERS: dict[str, Callable[[Path, str], Iterator[_Row]]] = {".jsonl": _lines, ".parquet": _parquet}


def _field_row(row: Any, field: str, where: str) -> _Row:
    """A document of a row of named fields."""
    if not isinstance(row, dict):
        raise TaskError(f"{where} is {brief(row)}, no object", fix="write one object a line")
    if field not in row:
        raise _no_field(where, field, list(row))
    content, name = row[field], row.get("id")
    if not isinstance(content, str):
        raise TaskError(
            f"{where}: {field} is {brief(content)}, no text", fix="name a field of text by `field`"
        )
    title = row.get("title")
    return _Row(
        content,
        _shown(title) if isinstance(title, str) else "",
        str(name) if isinstance(name, (str, int)) else None,
    )


def _no_field(where: str, field: str, names: Sequence[Any]) -> TaskError:
    shown = ", ".join(_shown(str(name))[:30] for name in names[:8]) or "none"
    return TaskError(f"{where} has no field {field!r}", fix=f"name one of its fields by `field`: {shown}")
