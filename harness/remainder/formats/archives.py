"""Zip archives of weights, judged by their list of entries before anything in them is unpacked.

A few kilobytes can unpack to gigabytes, and a header of a hundred bytes can claim an array of terabytes. So:

1. `torch.save` never compresses: an entry that is compressed, or larger than the file, is refused.
2. `numpy.savez_compressed` does: all entries together may unpack to `MOST_PACKED` times the file.
3. The header of each array of numpy must claim as many bytes as its entry has.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from remainder.base.files import require_file, size_of
from remainder.errors import InterpretationError

__all__ = ["MOST_PACKED", "require_arrays", "require_saved"]

MOST_PACKED = 20
"""How much larger than the file arrays may be; random weights shrink by a tenth, and a table of zeros by
1,000."""

_SPARE = 1_000_000  # bytes that are let through in any case
_FIX = "copy it again, or save it again"
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    NotImplementedError,
    EOFError,
    OSError,
    ValueError,
)


def require_saved(path: Path) -> None:
    """Whether torch.save wrote a file, as far as its first and last bytes and its list of entries tell.

    Raises:
        InterpretationError: it did not, or the file is cut, or unpacks to more than it holds.
    """
    require_file(path)
    for entry in _entries(path, "torch.save", f"{_FIX} with a torch of this decade"):
        if entry.compress_type != zipfile.ZIP_STORED:
            raise InterpretationError(
                f"{path} ({size_of(path)}) holds a compressed entry, {entry.filename[:80]!a} of "
                f"{entry.file_size:,} bytes; torch.save compresses nothing",
                fix="save it again with torch.save",
            )


def require_arrays(path: Path) -> None:
    """Whether numpy.savez wrote a file, and each array is as large as its header claims.

    Raises:
        InterpretationError: it did not, or the file is cut, or unpacks to much more than it holds.
    """
    require_file(path)
    for entry in _entries(path, "numpy.savez", _FIX):
        try:
            with zipfile.ZipFile(path) as archive, archive.open(entry) as stream:
                dtype, claimed = _claimed(stream)
        except _UNREADABLE as problem:
            raise InterpretationError(
                f"{path}: {entry.filename[:80]!a} is no array of numpy ({problem})", fix=_FIX
            ) from problem
        if claimed != entry.file_size and not dtype.hasobject:  # objects are refused when they are read
            raise InterpretationError(
                f"{path}: {entry.filename[:80]!a} has {entry.file_size:,} bytes, and claims {claimed:,}",
                fix=_FIX,
            )


def _claimed(stream: Any) -> tuple[np.dtype[Any], int]:
    """The dtype of an array of numpy, and the bytes that its header claims for the whole of it."""
    form = np.lib.format
    major, _ = form.read_magic(stream)
    read = form.read_array_header_1_0 if major == 1 else form.read_array_header_2_0
    shape, _, dtype = read(stream)
    return dtype, stream.tell() + math.prod(shape) * dtype.itemsize


def _entries(path: Path, writer: str, fix: str) -> Iterator[zipfile.ZipInfo]:
    """The entries of an archive, if they do not unpack to much more than the file."""
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _UNREADABLE:
        raise InterpretationError(
            f"{path} ({size_of(path)}) is no file that {writer} wrote, or it is truncated", fix=fix
        ) from None
    unpacked, most = sum(entry.file_size for entry in entries), MOST_PACKED * path.stat().st_size + _SPARE
    if unpacked > most:
        raise InterpretationError(
            f"{path} ({size_of(path)}) unpacks to {unpacked:,} bytes, more than {MOST_PACKED} times as many",
            fix="save it without compression (numpy.savez, torch.save)",
        )
    yield from entries
