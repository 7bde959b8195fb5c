"""Canonical JSON, its hashes, significant digits, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from remainder.base.files import refused
from remainder.errors import RecordError

__all__ = [
    "canonical_json",
    "cleaned",
    "cleaned_hash",
    "content_hash",
    "is_abandoned",
    "sha256",
    "significant",
    "sweep_temporary",
    "write_atomically",
]

_ABANDONED = 600  # seconds after which nobody is writing a file any more; writing takes less than one
DIGITS = 6
"""Significant digits of every float in a record."""


def significant(number: float, digits: int = DIGITS) -> float:
    """`number` rounded to `digits` significant digits; -0.0 becomes 0.0, NaN and infinities stay."""
    return float(f"{number:.{digits}g}") + 0.0


def canonical_json(content: Any, *, indent: int | None = None) -> str:
    """JSON with sorted keys and floats of six significant digits.

    Args:
        content: nested dicts (string keys), lists, strings, numbers, booleans, None.
        indent: for reading on disk; None for the compact form that is hashed.

    Raises:
        RecordError: a float is NaN or infinite (the message names its place), or a type is foreign.
    """
    return _dump(cleaned(content), indent)


def content_hash(content: Any) -> str:
    """SHA-256 (hex) of the compact canonical JSON of `content`, in UTF-8."""
    return cleaned_hash(cleaned(content))


def cleaned(content: Any) -> Any:
    """`content` as canonical JSON has it: floats of six significant digits, lists for tuples.

    Raises:
        RecordError: as `canonical_json`.
    """
    return _clean(content, "")


def cleaned_hash(content: Any) -> str:
    """The `content_hash` of what `cleaned` gave, or of a part of it."""
    return sha256(_dump(content).encode())


def _dump(content: Any, indent: int | None = None) -> str:
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(content, sort_keys=True, ensure_ascii=False, indent=indent, separators=separators)


def sha256(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and move it there: readers see the old file or the whole new one.

    Raises:
        RecordError: it cannot be written: the disk is full, or the folder is not ours to write to.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        # Not the name of the temporary file, which nobody gave.
        bare = OSError(problem.errno or 0, problem.strerror or str(problem))
        raise refused(bare, path, RecordError) from problem
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_abandoned(path: Path) -> bool:
    """Whether a file or folder is so old that whoever was writing it has been killed."""
    try:
        return time.time() - path.lstat().st_mtime > _ABANDONED
    except OSError:  # somebody else swept it meanwhile
        return False


def sweep_temporary(folder: Path, name: str = "*") -> list[Path]:
    """Remove what killed writers left in a folder in place of files called `name`; gives what was removed."""
    swept = [path for path in sorted(folder.glob(f".{name}.*.tmp")) if is_abandoned(path)]
    for path in swept:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return swept


def _clean(content: Any, place: str) -> Any:
    if content is None or isinstance(content, (str, bool, int)):
        return content
    if isinstance(content, float):
        if not math.isfinite(content):
            raise RecordError(
                f"{place or 'the content'} is {content}; a record holds finite numbers only",
                fix="store null with a reason, and find out where the number was lost",
            )
        return significant(content)
    if isinstance(content, (list, tuple)):
        return [_clean(item, f"{place}[{index}]") for index, item in enumerate(content)]
    if isinstance(content, dict) and all(isinstance(key, str) for key in content):
        return {key: _clean(item, f"{place}.{key}" if place else key) for key, item in content.items()}
    raise RecordError(f"{place or 'the content'} is of type {type(content).__name__}, which JSON cannot hold")
