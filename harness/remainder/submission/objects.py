"""An object from a notebook as a submission: anything with `encode` and `decode`, named and hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import Circuits, NodeRanking, Ranking, Sized
from remainder.errors import InterpretationError, TaskError
from remainder.formats import saelens
from remainder.formats.eap_ig import Found
from remainder.formats.known import Ignore
from remainder.interpretation.casting import require_plain
from remainder.interpretation.protocol import Adapted, FitMoments
from remainder.submission.fingerprint import fingerprint
from remainder.task.spec import Task

if TYPE_CHECKING:
    from remainder.loading.prompts import PromptTask

__all__ = ["CircuitSubmission", "ObjectSubmission", "circuit_submission", "label_of", "object_submission"]


_DEPTH = 4  # of attributes of attributes that are hashed


@dataclass(frozen=True)
class _InMemory:
    """The common part of submissions that were never files: a name, and a hash of the object."""

    name: str
    hash: str
    obj: Any
    unseen: tuple[str, ...] = ()
    """Parts of the object that the hash does not cover, if that was looked into."""

    @property
    def is_pinned(self) -> bool:
        """Whether a record of the same hash is of the same content."""
        return not self.unseen

    @property
    def files(self) -> dict[str, str]:
        """No files: what is known of an object is the hash of its weights or edges."""
        return {}

    @property
    def kilobytes(self) -> float | None:
        """No size, since it has no files."""
        return None

    @property
    def family(self) -> str | None:
        """No family: what has no description stands for itself."""
        return None


@dataclass(frozen=True)
class ObjectSubmission(_InMemory):
    """An object from a notebook, as a submission: named and hashed as well as it can be.

    The hash covers tensors, numbers and words down to a few levels, not the code of its methods; that of
    `with_code` covers both.
    """

    kind: str = "reconstruction"
    format_name: None = None
    ignore_fields: tuple[str, ...] = ()
    """Fields of its cfg to be passed over."""

    def with_code(self) -> ObjectSubmission:
        """A copy whose hash tells it from any object of other content or code, as far as `fingerprint` sees.

        Objects that a task's script makes need no such thing: the hash of the task covers the script.
        """
        found = fingerprint(self.obj)
        digest = hashlib.sha256(f"{self.hash}|{found.hash}".encode()).hexdigest()
        return replace(self, hash=digest, unseen=found.unseen)

    def build(self, task: Task, fit: FitMoments | None = None) -> Adapted:
        """The object, wrapped for the task's site; nothing is fitted.

        Raises:
            InterpretationError: if it lacks a method, or was made for another site.
        """
        ignore = Ignore(frozenset(self.ignore_fields))
        loaded = ignore.noted(saelens.load_object(self.obj, task, self.name, ignore), self.name)
        return loaded.adapted(task.site.width, self.name)

    def require_fit(self, task: Task) -> None:
        """Refuse before anything is loaded what `build` would refuse."""
        self.build(task)


@dataclass(frozen=True)
class CircuitSubmission(_InMemory):
    """A circuit, or a ranking of edges or nodes, from a notebook or a task's script."""

    obj: Circuits
    unseen: tuple[str, ...] = ()
    kind: str = "circuit"
    format_name: None = None

    def require_fit(self, task: Task) -> None:
        """Whether it is of the task's graph is known only once the model is loaded; see `circuits`."""

    def circuits(self, loaded: PromptTask, fit_windows: int) -> Found:
        """The circuits, if they are of the task's graph.

        Raises:
            InterpretationError: they are of another architecture.
        """
        graph = loaded.circuit_model().graph
        if self.obj.graph != graph:
            raise InterpretationError(
                f"{self.name} is of {self.obj.graph.architecture}; the model of {loaded.task.id} is "
                f"{graph.architecture}",
                fix="make the circuit for that model",
            )
        return Found(self.obj, ())


def circuit_submission(
    obj: Any, name: str | None = None, ignore_fields: Sequence[str] = ()
) -> CircuitSubmission:
    """Wrap a circuit, circuits by size, or a ranking, and hash its edges.

    Raises:
        InterpretationError: it is something else, or the name cannot stand in a table.
        TaskError: fields are to be ignored, and it has none.
    """
    if ignore_fields:
        raise TaskError("a circuit from a notebook has no fields", fix="leave out ignore_fields")
    circuits = Sized(obj.graph, {obj.edges / obj.graph.edges: obj}) if isinstance(obj, Circuit) else obj
    if not isinstance(circuits, Circuits):
        raise InterpretationError(
            f"a {type(obj).__name__} is no circuit",
            fix="give a remainder.Circuit, a ranking of edges, or a file in EAP-IG's format",
        )
    digest = hashlib.sha256(repr(circuits.graph.architecture).encode())
    if isinstance(circuits, Sized):
        for size, circuit in sorted(circuits.circuits.items()):
            digest.update(repr(float(size)).encode() + circuit.kept.tobytes())
    elif isinstance(circuits, (Ranking, NodeRanking)):
        digest.update(np.ascontiguousarray(circuits.scores, dtype=np.float64).tobytes())
    else:
        raise InterpretationError(
            f"a {type(obj).__name__} gives circuits that cannot be hashed",
            fix="give a Ranking, a NodeRanking or Sized circuits",
        )
    return CircuitSubmission(label_of(name or type(obj).__name__.lower()), digest.hexdigest(), circuits)


def object_submission(
    obj: Any, name: str | None = None, ignore_fields: Sequence[str] = ()
) -> ObjectSubmission:
    """Wrap an object with encode and decode, and hash what can be seen of it.

    Args:
        obj: the object.
        name: in tables; default: that of its class.
        ignore_fields: of its cfg, to be passed over where they would be refused.

    Raises:
        InterpretationError: if the name cannot stand in a table, or a tensor is no plain array of numbers.
    """
    label = label_of(name or type(obj).__name__.lower())
    require_plain(obj, label)
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

    add("", obj, 0)
    if ignore_fields:  # they are part of what is scored
        add("ignore_fields", sorted(ignore_fields), 0)
    return ObjectSubmission(label, digest.hexdigest(), obj, ignore_fields=tuple(ignore_fields))


def label_of(name: str) -> str:
    """The name, if it can stand in a table and be a folder.

    Raises:
        InterpretationError: it cannot.
    """
    if not re.fullmatch(r"[\w][\w .-]{0,39}", name := str(name)):
        raise InterpretationError(
            f"the name {name!r} cannot stand in a table", fix="use at most 40 letters, digits, '.', '-', '_'"
        )
    return name
