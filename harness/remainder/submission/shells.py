"""Shells of an interpretation: itself with some of its sources kept, as submissions like any other.

A shell is measured, kept and found again as every submission is; its hash covers the whole interpretation's,
the order in which sources are kept and how many.

Of circuits the sources are edges, and of circuits of features nodes: latents and errors of all templates. The
shells are the circuits that the submission has, by size or threshold, and the empty one. Looking for them
takes long, so it is done once, and only where a shell is to be measured whose record is not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from remainder.circuit.circuit import Circuit
from remainder.circuit.feature_circuits import FeatureCircuits
from remainder.circuit.ranking import Circuits, Sized, ties_of
from remainder.errors import TaskError
from remainder.formats.eap_ig import Found
from remainder.interpretation.kept import Kept, Some
from remainder.interpretation.protocol import Adapted, FitMoments
from remainder.record.code import SHELL
from remainder.record.shell import shell_hash, shell_name, shell_note
from remainder.submission.submission import Entry, PromptEntry
from remainder.task.spec import Task

if TYPE_CHECKING:
    from remainder.loading.prompts import PromptTask
    from remainder.submission.feature_circuits import FoundFeatures

__all__ = ["CIRCUIT_ORDERS", "CircuitShell", "Family", "Search", "Shell"]

CIRCUIT_ORDERS = {"circuit": "edges", "feature-circuit": "nodes"}
"""Names of the sources of circuits, by the kind of the submission."""


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


class Family(NamedTuple):
    """The circuits of a submission, as shells."""

    sources: int
    """Edges of the graph, or nodes on all templates."""
    ties: int
    """Edges or nodes whose score has the size of the one before."""
    circuits: Mapping[int, Circuits | FeatureCircuits]
    """One circuit each, by how many edges or nodes it keeps, ascending; the empty one first."""


@dataclass
class Search:
    """The circuits of a submission, looked for when they are first asked for."""

    loaded: PromptTask
    whole: PromptEntry
    fit_windows: int

    @cached_property
    def family(self) -> Family:
        """The circuits.

        Raises:
            InterpretationError: they cannot be had.
            TaskError: it has no circuit but the empty one, or two that keep equally many.
        """
        found = self.whole.circuits(self.loaded, self.fit_windows).circuits
        family = _of_features(found) if isinstance(found, FeatureCircuits) else _of_edges(found)
        if len(family.circuits) < 2:
            raise TaskError(
                f"{self.whole.name} keeps nothing at any size: one shell shows no scale",
                fix="name a submission with a circuit that keeps something",
            )
        return family


@dataclass(frozen=True)
class CircuitShell(_Part):
    """One of the circuits of a submission."""

    search: Search = field(kw_only=True, repr=False, compare=False)

    def circuits(self, loaded: PromptTask, fit_windows: int) -> Found | FoundFeatures:
        """The circuit, by its share of all edges or nodes.

        Raises:
            TaskError: circuits were found before, and are others now.
        """
        from remainder.submission.feature_circuits import FoundFeatures

        family = self.search.family
        if (self.sources, self.ties) != family[:2] or self.keep not in family.circuits:
            raise TaskError(
                f"{self.whole.name} on {loaded.task.id} has other circuits than when its flow was measured: "
                f"they keep {', '.join(map(str, family.circuits))} of {family.sources}",
                fix="measure the flow anew, by --fresh (Python: fresh=True)",
            )
        circuits = family.circuits[self.keep]
        if isinstance(circuits, FeatureCircuits):
            return FoundFeatures(circuits, (self.note,))
        return Found(circuits, (self.note,))


def _of_edges(found: Circuits) -> Family:
    """A shell for each size that the circuits have, with the empty one."""
    graph = found.graph
    kept: dict[int, Circuit] = {0: Circuit.empty(graph)}
    for size in found.sizes:
        one = found.at(size, absolute=True)
        if one.edges in kept and (kept[one.edges].kept != one.kept).any():
            raise _same(one.edges, "edges")
        kept[one.edges] = one
    shells = {edges: Sized(graph, {edges / graph.edges: kept[edges]}) for edges in sorted(kept)}
    return Family(graph.edges, ties_of(found), shells)


def _of_features(found: FeatureCircuits) -> Family:
    """A shell for each threshold, with the empty one; a threshold knows no ties."""
    names = {name: found.count(name) for name in found.circuits}
    largest = next(iter(found.circuits.values()))
    empty = {template: one.empty for template, one in largest.items()}
    kept = {0: FeatureCircuits(found.sites, {"empty": empty})}
    for name, count in sorted(names.items(), key=lambda item: item[1].nodes):
        if count.nodes in kept and count.nodes:
            raise _same(count.nodes, "nodes")
        kept[count.nodes] = FeatureCircuits(found.sites, {name: found.circuits[name]})
    return Family(next(iter(names.values())).of, 0, kept)


def _same(count: int, unit: str) -> TaskError:
    return TaskError(
        f"two circuits keep {count} {unit}, and are not the same: shells are told by how many they keep",
        fix="leave one of them out",
    )
