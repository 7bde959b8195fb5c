"""Shells of an interpretation: itself with some of its sources kept, as submissions like any other.

A shell is measured, kept and found again as every submission is; its hash covers the whole interpretation's,
the order in which sources are kept and how many. Of circuits the sources are edges.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import Sized
from remainder.formats.eap_ig import Found
from remainder.interpretation.kept import Kept, Some
from remainder.interpretation.protocol import Adapted, FitMoments
from remainder.record.code import SHELL
from remainder.record.shell import shell_hash, shell_name, shell_note
from remainder.submission.submission import Entry
from remainder.task.spec import Task

if TYPE_CHECKING:
    from remainder.loading.prompts import PromptTask

__all__ = ["CircuitShell", "Shell"]


@dataclass(frozen=True)
class _Part:
    """The common part of all shells."""

    whole: Entry
    order: str
    """The order in which sources are kept, with all that it depends on besides the interpretation."""
    keep: int
    """How many sources are kept."""
    sources: int
    """How many there are to keep."""
    ties: int
    """Sources whose place in the order their index decided."""
    family: None = None
    format_name: str = SHELL

    @property
    def name(self) -> str:
        """The whole one's name, the order and how many are kept."""
        return shell_name(self.whole.name, self.order, self.keep)

    @property
    def kind(self) -> str:
        """The whole one's kind."""
        return self.whole.kind

    @property
    def files(self) -> dict[str, str]:
        """Files of the whole interpretation."""
        return self.whole.files

    @property
    def kilobytes(self) -> float | None:
        """Size of these files."""
        return self.whole.kilobytes

    @property
    def hash(self) -> str:
        """SHA-256 over the whole one's hash, the order and how many are kept."""
        return shell_hash(self.whole.hash, self.order, self.keep)

    @property
    def is_pinned(self) -> bool:
        """Whether the whole one's hash says everything."""
        return self.whole.is_pinned

    @property
    def note(self) -> str:
        """The sentence on its sources in its record."""
        return shell_note(self.keep, self.order, self.sources, self.ties)

    def require_fit(self, task: Task) -> None:
        """Raise InterpretationError if the whole one was made for other tasks."""
        self.whole.require_fit(task)


@dataclass(frozen=True)
class Shell(_Part):
    """A reconstruction with some of its sources."""

    adapted: Adapted = field(kw_only=True, repr=False)
    """The whole interpretation, built."""
    some: Some = field(kw_only=True, repr=False)

    def build(self, task: Task, fit: FitMoments) -> Adapted:
        """The interpretation, ready for the task's site."""
        inner = Kept(self.adapted.inner, self.some)
        return dataclasses.replace(self.adapted, inner=inner, name=self.name, warnings=(self.note,))


@dataclass(frozen=True)
class CircuitShell(_Part):
    """One of the circuits of a submission."""

    circuit: Circuit = field(kw_only=True, repr=False)

    def circuits(self, loaded: PromptTask, fit_windows: int) -> Found:
        """The circuit, by its share of all edges."""
        graph = self.circuit.graph
        return Found(Sized(graph, {self.circuit.edges / graph.edges: self.circuit}), (self.note,))
