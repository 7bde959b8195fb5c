"""The command `remainder circuit`: find a circuit on a task, or read one, and write it in EAP-IG's format; of
features, the scores of their nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from remainder.errors import InterpretationError, TaskError

_SCORES = ".safetensors"


def circuit(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task of circuits: its id, or its folder.")],
    submission: Annotated[
        str, typer.Argument(metavar="CIRCUIT", help="What `run --with` takes: a file, a folder, a baseline.")
    ],
    save: Annotated[
        Path,
        typer.Option(
            "--save",
            metavar="FILE",
            help="Write it here: .json or .pt, in EAP-IG's format; of features their scores, .safetensors.",
        ),
    ],
    size: Annotated[
        float | None,
        typer.Option(help="Write the circuit of this share of all edges, not the scores of all edges."),
    ] = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="With --size: choose edges by signed scores, not absolute ones.")
    ] = False,
    ungrouped: Annotated[
        bool,
        typer.Option("--ungrouped", help="One key and value a head, as EAP-IG has them, not one a group."),
    ] = False,
    tier: Annotated[str, typer.Option(help="How many prompts a circuit is looked for on.")] = "quick",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Find or read the circuit of a submission, and write it to a file that EAP-IG and MIB read too."""
    from remainder.circuit.features_found import FeatureCircuits
    from remainder.circuit.features_scores import save_scores
    from remainder.circuit.loaded import CircuitTask
    from remainder.circuit.ranking import Sized
    from remainder.console import errors, reporting
    from remainder.formats import eap_ig
    from remainder.formats.eap_ig_files import ENDINGS
    from remainder.loaded import open_task
    from remainder.submission import submissions_for

    if save.suffix not in (*ENDINGS, _SCORES):
        raise InterpretationError(
            f"--save {save}: files of circuits end on {' or '.join(ENDINGS)}, of features on {_SCORES}",
            fix="rename it",
        )
    if not save.absolute().parent.is_dir():
        raise InterpretationError(
            f"--save {save}: there is no folder {save.absolute().parent}", fix="make it first"
        )
    with reporting() as progress:
        loaded = open_task(task, device=device, progress=progress)
        if not isinstance(loaded, CircuitTask):
            raise TaskError(
                f"{loaded.task.id} is no task of circuits", fix="`remainder tasks` lists what there is"
            )
        (entry,) = submissions_for(loaded, [submission])
        found = entry.circuits(loaded, loaded.task.tier(tier).fit_windows)
    for note in found.notes:
        errors.print(f"! {note}", markup=False, soft_wrap=True)
    circuits = found.circuits
    if isinstance(circuits, FeatureCircuits) != (save.suffix == _SCORES):
        kind = "of features" if isinstance(circuits, FeatureCircuits) else "of edges"
        right = _SCORES if isinstance(circuits, FeatureCircuits) else " or ".join(ENDINGS)
        raise InterpretationError(
            f"--save {save}: {submission} is a circuit {kind}, whose files end on {right}", fix="rename it"
        )
    if isinstance(circuits, FeatureCircuits):
        if circuits.scores is None or size is not None or signed or ungrouped:
            raise InterpretationError(
                f"{submission} is a circuit of features: only scores of its nodes can be written"
                + ("" if circuits.scores is not None else ", and it has none"),
                fix="leave out --size, --signed and --ungrouped, and give one that is found by attribution",
            )
        save_scores(save, circuits.scores)
        print(f"{save}  scores of {circuits.count(next(iter(circuits.circuits))).of:,} nodes")
        return
    thing: Any
    if size is not None:
        thing = circuits.at(size, absolute=not signed)
    elif isinstance(circuits, Sized):
        if len(circuits.sizes) > 1:
            listed = ", ".join(f"{each:g}" for each in circuits.sizes)
            raise InterpretationError(
                f"{submission} is a circuit for each size", fix=f"add --size, one of {listed}"
            )
        thing = circuits.at(circuits.sizes[0], absolute=True)
    else:
        thing = circuits
    eap_ig.save(save, thing, ungrouped=ungrouped)
    what = f"{thing.edges:,} of {thing.graph.edges:,} edges" if hasattr(thing, "edges") else "scores"
    print(f"{save}  {what}")
