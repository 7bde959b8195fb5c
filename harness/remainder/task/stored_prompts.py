"""Prompts that lie in a task's folder as token ids, in place of a behaviour that makes them.

One file, `prompts.safetensors`: `SPLIT/TEMPLATE/ARRAY` → the arrays of `Prompts`, and in its metadata the
names of all documents. `[circuit] prompts_sha256` pins them, so no text need be stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from remainder.errors import AssetError, TaskError
from remainder.task.prompts import Prompts
from remainder.task.text import Split

__all__ = ["StoredPrompts"]

_FILE = "prompts.safetensors"
_ARRAYS = ("tokens", "counterfactual", "scored", "correct", "wrong")
_DOCUMENTS = "documents"


@dataclass(frozen=True)
class StoredPrompts:
    """Prompts of every split, by template."""

    groups: Mapping[Split, tuple[Prompts, ...]]

    def save(self, folder: Path) -> None:
        """Write what `load` reads into `folder`."""
        arrays: dict[str, NDArray[Any]] = {}
        names: dict[str, list[str]] = {}
        for split, groups in self.groups.items():
            for group in groups:
                place = f"{split}/{group.template}"
                names[place] = list(group.documents)
                arrays |= {f"{place}/{array}": getattr(group, array) for array in _ARRAYS}
        save_file(arrays, folder / _FILE, metadata={_DOCUMENTS: json.dumps(names)})

    @staticmethod
    def load(folder: Path) -> StoredPrompts:
        """The prompts in a task's folder.

        Raises:
            AssetError: they are not there, or are not what `save` wrote.
        """
        path = folder / _FILE
        try:
            with safe_open(path, framework="numpy") as stored:
                documents = json.loads(stored.metadata()[_DOCUMENTS])
                groups: dict[Split, list[Prompts]] = {}
                for place, names in documents.items():
                    split, template = _parts(place)
                    arrays = {array: stored.get_tensor(f"{place}/{array}") for array in _ARRAYS}
                    groups.setdefault(split, []).append(
                        Prompts(template=template, documents=tuple(names), **arrays)
                    )
        except (OSError, SafetensorError, LookupError, TypeError, ValueError, TaskError) as problem:
            raise AssetError(
                f"{path} does not hold the prompts of the task: {problem}",
                fix="make the task again, or copy its folder whole",
            ) from problem
        return StoredPrompts({split: tuple(parts) for split, parts in groups.items()})


def _parts(place: str) -> tuple[Split, str]:
    """Split and template of `SPLIT/TEMPLATE`."""
    named, _, template = place.partition("/")
    for split in get_args(Split):
        if named == split and template:
            return split, template
    raise ValueError(f"{place!r} names no split and template")
