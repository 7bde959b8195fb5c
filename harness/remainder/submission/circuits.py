"""The circuits that a submission stands for, on the graph of a task's model.

Read from files (`eap-ig`, `mib`), or found on the task's `fit` prompts: `edge-attribution` is EAP, and with
`steps` EAP-IG over inputs; `node-attribution` is attribution patching of nodes; `edge-patching` patches one
edge at a time, which takes a pass for each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from remainder.circuit.attribution import Attribution, random_edges
from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import NodeRanking, Ranking, Sized
from remainder.errors import InterpretationError
from remainder.formats import eap_ig, mib
from remainder.formats.eap_ig import Found
from remainder.formats.known import Ignore
from remainder.submission.method import Method
from remainder.task.prompts import first

if TYPE_CHECKING:
    from remainder.loading.prompts import CircuitTask

__all__ = ["make_circuits"]


def make_circuits(method: Method, folder: Path | None, loaded: CircuitTask, fit_windows: int) -> Found:
    """The circuits of a method, and notes on how they were read.

    Args:
        method: of the submission.
        folder: of the submission.
        loaded: the task.
        fit_windows: prompts that a circuit is looked for on.

    Raises:
        InterpretationError: the file is not sound, or of another architecture.
    """
    graph = loaded.circuit_model().graph
    if method.format in ("eap-ig", "mib"):
        if folder is None or method.path is None:
            raise InterpretationError(f"format {method.format} needs `path`", fix="name the file or folder")
        path = folder / method.path
        ignore = Ignore(frozenset(method.ignore_fields or ()))
        if method.format == "eap-ig":
            found = eap_ig.load(path, graph, ignore=ignore)
        else:
            found = mib.load(path, graph, loaded.task, ignore)
        ignore.require_found(str(path))
        return found._replace(notes=(*found.notes, *ignore.warnings))
    if method.format == "full-graph":
        return Found(Sized(graph, {1.0: Circuit.full(graph)}), ())
    if method.format == "empty-graph":
        return Found(Sized(graph, {0.0: Circuit.empty(graph)}), ())
    if method.format == "random-edges":
        return Found(Ranking(graph, random_edges(graph, method.seed)), ())
    prompts = first(loaded.prompts("fit"), fit_windows)
    # Gradients need weights that were not made in inference mode; a task is opened outside of it.
    with torch.inference_mode(False):
        attribution = Attribution(
            loaded.circuit_model(), prompts, device=loaded.device, progress=loaded.progress
        )
        if method.format == "node-attribution":
            return Found(NodeRanking(graph, attribution.nodes(method.steps or 1)), ())
        if method.format == "edge-patching":
            return Found(Ranking(graph, attribution.patched_edges()), ())
        return Found(Ranking(graph, attribution.edges(method.steps or 1)), ())
