"""An object from a notebook as a submission: anything with `encode` and `decode`, named and hashed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import torch

from remainder.errors import InterpretationError
from remainder.formats import saelens
from remainder.interpretation import Adapted, FitMoments, adapt
from remainder.task import Task

__all__ = ["ObjectSubmission", "object_submission"]


_DEPTH = 4  # of attributes of attributes that are hashed


@dataclass(frozen=True)
class ObjectSubmission:
    """An object from a notebook, as a submission: named and hashed as well as it can be.

    The hash covers tensors, numbers and words down to a few levels, not the code of its methods.
    """

    name: str
    hash: str
    thing: Any
    kind: str = "reconstruction"

    is_pinned: bool = True

    @property
    def files(self) -> dict[str, str]:
        """No files: what is known of an object is the hash of its weights."""
        return {}

    def build(self, task: Task, fit: FitMoments) -> Adapted:
        """The object, wrapped for the task's site.

        Raises:
            InterpretationError: if it lacks a method, or was made for another site.
        """
        return self.check(task)

    def check(self, task: Task) -> Adapted:
        """What can be told wrong before anything is loaded; see `build`."""
        loaded = saelens.load_object(self.thing, task, self.name)
        return adapt(loaded.thing, task.site.width, self.name, loaded.reads)


def object_submission(thing: Any, name: str | None = None) -> ObjectSubmission:
    """Wrap an object with encode and decode, and hash what can be seen of it.

    Raises:
        InterpretationError: if the name cannot stand in a table.
    """
    label = name or type(thing).__name__.lower()
    if not re.fullmatch(r"[\w][\w .-]{0,39}", label):
        raise InterpretationError(
            f"the name {label!r} cannot stand in a table", fix="use at most 40 letters, digits, '.', '-', '_'"
        )
    digest = hashlib.sha256()

    def add(key: str, value: Any, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            raw = value.detach().cpu().contiguous()
            digest.update(f"{key}|{raw.dtype}|{tuple(raw.shape)}".encode())
            digest.update(raw.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, (bool, int, float, str)):
            digest.update(f"{key}|{value!r}".encode())
        elif depth >= _DEPTH:
            return
        elif isinstance(value, (list, tuple)):
            for number, part in enumerate(value):
                add(f"{key}[{number}]", part, depth + 1)
        elif isinstance(value, dict):
            for part in sorted(value, key=str):
                add(f"{key}[{part!r}]", value[part], depth + 1)
        else:
            digest.update(f"{key}|{type(value).__qualname__}".encode())
            inner: dict[str, Any] = {}
            if isinstance(value, torch.nn.Module):
                inner = {**dict(value.state_dict()), **dict(value.named_children())}
            inner.update(getattr(value, "__dict__", {}))
            inner.update(
                {slot: getattr(value, slot, None) for slot in getattr(value, "__slots__", None) or ()}
            )
            for part in sorted(inner, key=str):
                if not str(part).startswith("_"):
                    add(f"{key}.{part}", inner[part], depth + 1)

    add("", thing, 0)
    return ObjectSubmission(label, digest.hexdigest(), thing)
