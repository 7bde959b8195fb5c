"""Makers of the formats of circuits of edges, on the graph of a task's model.

They are read from files, are fixed by the graph, or are found on the task's `fit` prompts: `rank_edges`
is EAP, and with `steps` EAP-IG over inputs; `rank_nodes` is attribution patching of nodes; `patch_edges`
patches one edge at a time, which takes a pass for each.

Every maker takes the submission, the task, and how many prompts of `fit` a circuit is looked for on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from remainder.circuit.attribution import Attribution, random_edges
from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import Circuits, NodeRanking, Ranking, Sized
from remainder.errors import InterpretationError
from remainder.formats import eap_ig, mib
from remainder.formats.eap_ig import Found
from remainder.formats.known import Ignore
from remainder.task.prompts import first

if TYPE_CHECKING:
    from remainder.loading.prompts import PromptTask
    from remainder.submission.submission import Submission

__all__ = ["empty", "full", "patch_edges", "random", "rank_edges", "rank_nodes", "read_file", "read_folder"]


def read_file(submission: Submission, loaded: PromptTask, fit_windows: int) -> Found:
    """A file in EAP-IG's format.

    Raises:
        InterpretationError: it is not sound, or of another architecture.
    """
    graph = loaded.circuit_model().graph
    return _read(submission, lambda path, ignore: eap_ig.load(path, graph, ignore=ignore))


def read_folder(submission: Submission, loaded: PromptTask, fit_windows: int) -> Found:
    """MIB's folder of such files.

    Raises:
        InterpretationError: a file is not sound, of another architecture, or none is of the task.
    """
    graph = loaded.circuit_model().graph
    return _read(submission, lambda path, ignore: mib.load(path, graph, loaded.task, ignore))


def _read(submission: Submission, load: Callable[[Path, Ignore], Found]) -> Found:
    method = submission.method
    if submission.folder is None:
        raise InterpretationError(
            f"submission {submission.name}: format {method.format} is read from files, and it has no folder",
            fix="give the folder that holds its submission.toml",
        )
    path = submission.folder / (method.place or "")
    ignore = Ignore(frozenset(method.get("ignore_fields") or ()))
    result = load(path, ignore)
    ignore.require_found(str(path))
    return result._replace(notes=(*result.notes, *ignore.warnings))


def full(submission: Submission, loaded: PromptTask, fit_windows: int) -> Found:
    """The circuit of all edges."""
    graph = loaded.circuit_model().graph
    return Found(Sized(graph, {1.0: Circuit.full(graph)}), ())


def empty(submission: Submission, loaded: PromptTask, fit_windows: int) -> Found:
    """The circuit without an edge."""
    graph = loaded.circuit_model().graph
    return Found(Sized(graph, {0.0: Circuit.empty(graph)}), ())


def random(submission: Submission, loaded: PromptTask, fit_windows: int) -> Found:
    """Edges in a random order."""
    graph = loaded.circuit_model().graph
    return Found(Ranking(graph, random_edges(graph, submission.method.get("seed"))), ())


def rank_edges(submission: Submission, loaded: PromptTask, fit_windows: int) -> Found:
    """Edges ranked by attribution patching (EAP, EAP-IG)."""
    steps, graph = submission.method.get("steps") or 1, loaded.circuit_model().graph
    return _found(loaded, fit_windows, lambda attribution: Ranking(graph, attribution.edges(steps)))


def rank_nodes(submission: Submission, loaded: PromptTask, fit_windows: int) -> Found:
    """Nodes ranked by attribution patching."""
    steps, graph = submission.method.get("steps") or 1, loaded.circuit_model().graph
    return _found(loaded, fit_windows, lambda attribution: NodeRanking(graph, attribution.nodes(steps)))


def patch_edges(submission: Submission, loaded: PromptTask, fit_windows: int) -> Found:
    """Edges ranked by patching one at a time."""
    graph = loaded.circuit_model().graph
    return _found(loaded, fit_windows, lambda attribution: Ranking(graph, attribution.patched_edges()))


def _found(loaded: PromptTask, fit_windows: int, rank: Callable[[Attribution], Circuits]) -> Found:
    prompts = first(loaded.prompts("fit"), fit_windows)
    # Gradients need weights that were not made in inference mode; a task is opened outside of it.
    with torch.inference_mode(False):
        attribution = Attribution(
            loaded.circuit_model(), prompts, device=loaded.device, progress=loaded.progress
        )
        return Found(rank(attribution), ())
