"""The windows that a tier of a task scores, as one hash: what a record's documents are compared with.

Which documents a tier has, how they are cut and how many tokens of each window count depends on the task
alone, so it is computed once (`remainder.loading.windows`) and kept in `tasks/windows.json`:

    {"SUITE/TASK": {"quick": "<SHA-256>", "standard": "<SHA-256>"}}

A record whose documents were renamed, left out or exchanged has another hash. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import pandas as pd

from remainder.base.files import parse_json, read_text
from remainder.base.paths import project_root
from remainder.errors import TaskError
from remainder.record.json import sha256
from remainder.record.values import of_split

__all__ = ["scored_in", "windows_file", "windows_hash", "windows_of"]


def windows_hash(windows: Mapping[tuple[str, int], int]) -> str:
    """SHA-256 over scored tokens by document and number of the window."""
    rows: Iterable[list[object]] = ([*key, tokens] for key, tokens in sorted(windows.items()))
    return sha256("".join(f"{json.dumps(row)}\n" for row in rows).encode())


def scored_in(values: pd.DataFrame) -> dict[tuple[str, int], int]:
    """Scored tokens by document and window of the evaluation split, from the values of a record."""
    clean = of_split(values.loc[values["rung"] == "clean"])
    columns = (clean[name].tolist() for name in ("document", "window", "tokens"))
    return {(document, window): tokens for document, window, tokens in zip(*columns, strict=True)}


def windows_file() -> Path:
    """The file of the hashes; nothing but `remainder.loading.windows` writes it."""
    return project_root() / "tasks" / "windows.json"


def windows_of(task: str, tier: str) -> str | None:
    """The hash of a tier's windows; None if it is not known here.

    Raises:
        TaskError: the file is damaged.
    """
    path = windows_file()
    if not path.is_file():
        return None
    found = _read(path, path.stat().st_mtime_ns).get(task, {}).get(tier)
    return None if found is None else str(found)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, dict[str, str]]:
    content: dict[str, dict[str, str]] = parse_json(
        read_text(path, "JSON", error=TaskError), path, error=TaskError
    )
    return content
