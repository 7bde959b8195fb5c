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
    from remainder.base.files import require_target
    from remainder.base.progress import errors, reporting
    from remainder.circuit.feature_circuits import FeatureCircuits
    from remainder.circuit.feature_scores import save_scores
    from remainder.circuit.ranking import Sized
    from remainder.formats import eap_ig
    from remainder.formats.eap_ig_files import ENDINGS
    from remainder.loading.open import on_prompts, open_task
    from remainder.submission.open import submissions_for
    from remainder.submission.submission import PromptEntry
    from remainder.task.spec import load_task

    require_target(save, "--save", (*sorted(ENDINGS), _SCORES), InterpretationError)
    chosen = load_task(task)
    if "circuit" not in chosen.kind.submissions:
        raise TaskError(f"{chosen.id} is no task of circuits", fix="`remainder tasks` lists what there is")
    fit_windows = chosen.tier(tier).fit_windows
    if size is None and signed:
        raise InterpretationError("--signed says how edges are chosen", fix="add --size, or leave it out")
    if size is not None and not 0 < size <= 1:
        raise InterpretationError(
            f"--size {size:g} is no share of all edges", fix="give a number above 0, at most 1"
        )
    with reporting() as progress:
        loaded = on_prompts(open_task(chosen, device=device, progress=progress))
        (entry,) = submissions_for(loaded, [submission])
        assert isinstance(entry, PromptEntry)
        of_features = entry.kind == "feature-circuit"
        _require_options(submission, save, of_features, size is not None or signed or ungrouped)
        found = entry.circuits(loaded, fit_windows)
    for note in found.notes:
        errors.print(f"! {note}", markup=False, soft_wrap=True)
    circuits = found.circuits
    if isinstance(circuits, FeatureCircuits):
        if circuits.scores is None:
            raise InterpretationError(
                f"{submission} is a circuit of features: only scores of its nodes can be written, and there "
                "are none",
                fix="give one that is found by attribution",
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


def _require_options(submission: str, save: Path, of_features: bool, of_edges: bool) -> None:
    """Refuse, before anything is looked for, what cannot be written of a circuit of features, or of edges."""
    from remainder.formats.eap_ig_files import ENDINGS

    if of_features != (save.suffix == _SCORES):
        kind = "of features" if of_features else "of edges"
        right = _SCORES if of_features else " or ".join(sorted(ENDINGS))
        raise InterpretationError(
            f"--save {save}: {submission} is a circuit {kind}, whose files end on {right}", fix="rename it"
        )
    if of_features and of_edges:
        raise InterpretationError(
            f"{submission} is a circuit of features: only scores of its nodes can be written",
            fix="leave out --size, --signed and --ungrouped",
        )
