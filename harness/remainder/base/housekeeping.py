"""The size of the user's cache, part by part, and how room is made in it.

Only what this package made is ever removed: folders of the kinds in `PARTS` that bear its mark, since
`REMAINDER_CACHE` may name a folder that holds other things too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from remainder.base.cache import MANIFEST
from remainder.base.files import explained
from remainder.base.in_use import is_held
from remainder.base.paths import cache_root
from remainder.errors import AssetError

__all__ = ["PARTS", "Cleared", "Part", "clear", "parts"]


class Kind(NamedTuple):
    """A folder of the cache."""

    holds: str
    """A phrase for its content."""
    returns: bool = True
    """Whether what is removed is made or fetched again when it is needed."""


PARTS: Mapping[str, Kind] = {
    "files": Kind("pinned files of the package index"),
    "models": Kind("models, converted"),
    "corpora": Kind("token ids of texts"),
    "behaviours": Kind("prompts that models solve"),
    "activations": Kind("activations of texts"),
    "reference": Kind("transform coding of tasks"),
    "random-circuits": Kind("scores of random circuits"),
    "graph-circuits": Kind("submissions made of graphs of circuit-tracer", False),
    "adhoc": Kind("tasks of `remainder score`, without which no record on them is measured again", False),
    "submit": Kind("rows of submissions that are not finished", False),
}
"""The parts, by the names of their folders."""


class Part(NamedTuple):
    """A part of the cache as it is."""

    name: str
    entries: int
    bytes: int


class Cleared(NamedTuple):
    """The outcome of `clear`."""

    bytes: int
    in_use: list[str]
    """Entries that another process makes or reads, which were left."""


def parts() -> list[Part]:
    """All parts that are there, in the order of `PARTS`."""
    return [
        Part(name, len(entries), sum(map(_size, entries)))
        for name in PARTS
        if (entries := _entries(cache_root() / name))
    ]


def clear(names: Sequence[str] = ()) -> Cleared:
    """Remove parts of the cache.

    Args:
        names: of parts; without any, all whose content is made or fetched again when it is needed.

    Raises:
        AssetError: there is no such part, or it cannot be removed.
    """
    for name in names:
        if name not in PARTS:
            raise AssetError(f"the cache has no part {name!r}", fix=f"choose from: {', '.join(PARTS)}")
    chosen = dict.fromkeys(names) or [name for name, kind in PARTS.items() if kind.returns]
    freed, in_use = 0, []
    for name in chosen:
        for entry in _entries(cache_root().absolute() / name):
            with explained(entry, AssetError):
                size = _remove(entry)
            if size is None:
                in_use.append(f"{name}/{entry.name}")
            freed += size or 0
    return Cleared(freed, in_use)


def _entries(folder: Path) -> list[Path]:
    """Folders in a part of the cache that this package made, finished or not."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return sorted(path for path in found if (path / MANIFEST).is_file() or _is_named_by_hash(path.name))


def _is_named_by_hash(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{24,64}(\.tmp-\w+)?|[\w.-]+\.tmp-[0-9a-f]{12}", name) is not None


def _size(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    paths = (path for path in folder.rglob("*") if not path.is_symlink())
    return sum(path.stat().st_size for path in paths if path.is_file())


def _remove(entry: Path) -> int | None:
    """Remove an entry; gives its bytes, or None if somebody makes or reads it."""
    lock = FileLock(entry.with_name(f"{entry.name.partition('.tmp-')[0]}.lock"))
    try:
        with lock.acquire(timeout=0):
            if is_held(entry):
                return None
            size = _size(entry)
            shutil.rmtree(entry)
    except Timeout:
        return None
    return size
