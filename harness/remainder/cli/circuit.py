"""The command `remainder circuit`: find a circuit on a task, or read one, and write it to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remainder.cli.run_options import DeviceOption
from remainder.errors import InterpretationError, TaskError

if TYPE_CHECKING:
    from remainder.circuit.feature_circuits import FeatureCircuits
    from remainder.circuit.ranking import Circuits

_SCORES = ".safetensors"


_Save = Annotated[
    Path,
    typer.Option(
        "--save",
        metavar="FILE",
        help="Write it here: .json or .pt, in EAP-IG's format; for features their scores, .safetensors.",
    ),
]
_Size = Annotated[
    float | None, typer.Option(help="Write the circuit of this share of all edges, not the scores of all.")
]
_Signed = Annotated[
    bool, typer.Option("--signed", help="With --size: choose edges by signed scores, not absolute ones.")
]
_Ungrouped = Annotated[
    bool, typer.Option("--ungrouped", help="One key and value a head, as EAP-IG has them, not one a group.")
]


def circuit(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task of circuits: its id, or its folder.")],
    submission: Annotated[
        str, typer.Argument(metavar="CIRCUIT", help="What `run --with` takes: a file, a folder, a baseline.")
    ],
    save: _Save,
    size: _Size = None,
    signed: _Signed = False,
    ungrouped: _Ungrouped = False,
    tier: Annotated[str, typer.Option(help="How many prompts a circuit is looked for on.")] = "quick",
    device: DeviceOption = "auto",
) -> None:
    """Find or read the circuit of a submission, and write it to a file that EAP-IG and MIB read too."""
    from remainder.base.files import require_target
    from remainder.base.progress import errors, reporting
    from remainder.circuit.feature_circuits import FeatureCircuits
    from remainder.formats.eap_ig_files import ENDINGS
    from remainder.loading.open import on_prompts, open_task
    from remainder.submission.open import submissions_for
    from remainder.submission.submission import PromptEntry
    from remainder.task.spec import load_task

    require_target(save, "--save", (*sorted(ENDINGS), _SCORES), InterpretationError)
    chosen = load_task(task)
    if "circuit" not in chosen.kind.submissions:
        raise TaskError(f"{chosen.id} is not a task of circuits", fix="`remainder tasks` lists what there is")
    fit_windows = chosen.tier(tier).fit_windows
    if size is None and signed:
        raise InterpretationError("--signed says how edges are chosen", fix="add --size, or leave it out")
    if size is not None and not 0 < size <= 1:
        raise InterpretationError(
            f"--size {size:g} is not a share of all edges", fix="give a number above 0, at most 1"
        )
    with reporting() as progress:
        loaded = on_prompts(open_task(chosen, device=device, progress=progress))
        (entry,) = submissions_for(loaded, [submission])
        assert isinstance(entry, PromptEntry)
        of_features = entry.kind == "feature-circuit"
        _require_options(submission, save, of_features, size is not None or signed or ungrouped)
        result = entry.circuits(loaded, fit_windows)
    for note in result.notes:
        errors.print(f"! {note}", markup=False, soft_wrap=True)
    circuits = result.circuits
    if isinstance(circuits, FeatureCircuits):
        print(_save_features(save, circuits, submission))
    else:
        print(_save_edges(save, circuits, submission, size, signed=signed, ungrouped=ungrouped))


def _save_features(save: Path, circuits: FeatureCircuits, submission: str) -> str:
    from remainder.circuit.feature_scores import save_scores

    if circuits.scores is None:
        raise InterpretationError(
            f"{submission} is a circuit of features: only scores of its nodes can be written, and there "
            "are none",
            fix="give one that is found by attribution",
        )
    save_scores(save, circuits.scores)
    return f"{save}  scores of {circuits.count(next(iter(circuits.circuits))).of:,} nodes"


def _save_edges(
    save: Path, circuits: Circuits, submission: str, size: float | None, *, signed: bool, ungrouped: bool
) -> str:
    from remainder.circuit.ranking import NodeRanking, Ranking, Sized
    from remainder.formats import eap_ig

    if size is None and isinstance(circuits, Sized):
        if len(circuits.sizes) > 1:
            listed = ", ".join(f"{each:g}" for each in circuits.sizes)
            raise InterpretationError(
                f"{submission} is a circuit for each size", fix=f"add --size, one of {listed}"
            )
        size = circuits.sizes[0]
    if size is None:
        assert isinstance(circuits, (Ranking, NodeRanking))
        eap_ig.save(save, circuits, ungrouped=ungrouped)
        return f"{save}  scores"
    chosen = circuits.at(size, absolute=not signed)
    eap_ig.save(save, chosen, ungrouped=ungrouped)
    return f"{save}  {chosen.edges:,} of {chosen.graph.edges:,} edges"


def _require_options(submission: str, save: Path, of_features: bool, of_edges: bool) -> None:
    """Refuse options that the kind of circuit does not admit, before one is looked for."""
    from remainder.formats.eap_ig_files import ENDINGS

    if of_features != (save.suffix == _SCORES):
        kind = "of features" if of_features else "of edges"
        right = _SCORES if of_features else " or ".join(sorted(ENDINGS))
        raise InterpretationError(
            f"--save {save}: {submission} is a circuit {kind}, whose files end in {right}", fix="rename it"
        )
    if of_features and of_edges:
        raise InterpretationError(
            f"{submission} is a circuit of features: only scores of its nodes can be written",
            fix="leave out --size, --signed and --ungrouped",
        )
