"""Shells of a submission of circuits: the circuits that it has, found by its flow's file where there is one.

A search takes long. Where the folder of results holds the flow already, its file says how many edges or nodes
each shell keeps, and so under which keys their records lie; the search is made when one has to be measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from remainder.loading.prompts import PromptTask
from remainder.measure.plan import Plan
from remainder.record.flow_file import find_flow
from remainder.submission.names import folder_of
from remainder.submission.shells import CIRCUIT_ORDERS, CircuitShell, Search
from remainder.submission.submission import Entry, PromptEntry

__all__ = ["CircuitShells", "circuit_shells"]


class CircuitShells(NamedTuple):
    """The shells of a submission of circuits."""

    order: str
    """The sources: `edges` or `nodes`."""
    sources: int
    """How many there are."""
    ties: int
    shells: dict[int, Entry]
    """Submissions by how many sources each keeps, ascending."""


def circuit_shells(loaded: PromptTask, entry: PromptEntry, plan: Plan, out: Path | None) -> CircuitShells:
    """The shells of a submission.

    Args:
        out: the folder of results, which may hold the flow; None: whatever it holds, circuits are looked for.

    Raises:
        InterpretationError: its circuits cannot be had.
        TaskError: they are no shells; see `submission.shells.Search`.
    """
    order, search = CIRCUIT_ORDERS[entry.kind], Search(loaded, entry, plan.fit_windows)
    flow = None
    if out is not None and entry.is_pinned:
        folder = folder_of(out, loaded.task)
        flow = find_flow(folder, loaded.task.hash, entry.hash, order, plan.tier, plan.dtype)
    if flow is None:
        family = search.family
        sources, ties, keeps = family.sources, family.ties, tuple(family.circuits)
    else:
        sources, ties, keeps = flow.sources, flow.ties, tuple(shell.keep for shell in flow.shells)
    shells: dict[int, Entry] = {
        keep: CircuitShell(entry, order, keep, sources, ties, search=search) for keep in keeps
    }
    return CircuitShells(order, sources, ties, shells)
