"""MIB: a folder of the circuit track, as it is submitted.

1. One folder for a task and a model, called TASK_MODEL (`ioi_gpt2`), or a folder of such folders.
2. In it one file, .json or .pt in EAP-IG's format: scores that rank edges or nodes, whatever its flags.
3. Or several files, a circuit each. MIB asks for nine, of at most .001, .002, .005, .01, .02, .05, .1, .2 and
   .5 of all edges, and takes them by their number of edges for these; so do we. An empty and a full one may
   be there too. If there are not nine, each has the size that it has.
4. With grouped queries edges of several heads are one here. A circuit that keeps a larger share of these
   than its size has that share as its size.

Source: https://github.com/hannamw/MIB-circuit-track, README and `MIB_circuit_track/evaluation.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import Sized
from remainder.errors import InterpretationError
from remainder.formats import eap_ig
from remainder.formats.eap_ig import Found
from remainder.formats.eap_ig_files import read
from remainder.formats.known import Ignore
from remainder.formats.recognition import look
from remainder.model.architecture import Graph
from remainder.task.spec import SIZES, Task

__all__ = ["all_files", "folder_of", "found_in", "load"]

_ENDINGS = frozenset({".json", ".pt", ".pth"})
"""Endings of files that are looked at, in small letters or capitals; other files are not circuits."""
_PACKED = frozenset({".gz", ".bz2", ".xz", ".zst"})
"""Endings of archives; a circuit in one must be unpacked first."""


def found_in(path: Path) -> bool:
    """Whether `path` is a folder with circuits, or of such folders."""
    return bool(all_files(path))


def all_files(path: Path) -> list[Path]:
    """Every circuit of a submission, of whatever task: what can move a number."""
    return [*_circuits(path), *(file for folder in _folders(path) for file in _circuits(folder))]


def folder_of(path: Path, task: Task) -> Path:
    """The folder of a task: `path` itself, its only folder, or the one that is named after task and model.

    Raises:
        InterpretationError: there is none, or more than one; the candidates are listed.
    """
    if _circuits(path):
        return path
    folders = _folders(path)
    fitting = (
        folders if len(folders) == 1 else [folder for folder in folders if _is_called(folder.name, task)]
    )
    if len(fitting) != 1:
        listed = ", ".join(folder.name for folder in fitting or folders) or "nothing"
        raise InterpretationError(
            f"{path} holds circuits of {listed}; {'none' if not fitting else 'more than one'} of these is "
            f"called after the task {task.id} (model {task.model.name}) as TASK_MODEL",
            fix="give the folder of one task and model",
        )
    return fitting[0]


def load(path: Path, graph: Graph, task: Task, ignore: Ignore | None = None) -> Found:
    """The ranking or the circuits of a task.

    Args:
        path: of the submission, or of one task and model in it.
        graph: of the task's model.
        task: whose folder is looked for.
        ignore: fields to be passed over.

    Raises:
        InterpretationError: the folder cannot be told, or a file is not sound.
    """
    folder = folder_of(path, task)
    paths = _circuits(folder)
    notes = []
    if folder != path and not _is_called(folder.name, task):
        notes.append(f"{folder.name} is the only folder there, and was taken for {task.id}")
    strange = [file for file in _candidates(folder) if file not in paths]
    for file in strange:
        if (seen := look(file)).is_closed:  # without it the others might be other sizes
            raise seen.refused(file)
    if strange:
        notes.append(f"{', '.join(file.name for file in strange)}: no circuit, left out")
    if len(paths) == 1:
        single = eap_ig.load(paths[0], graph, importances=True, ignore=ignore)
        return Found(single.circuits, (*notes, *single.notes))
    counts, pruned = {}, {}
    for file in paths:
        content = read(file, graph, ignore)
        counts[file] = int(content.kept.sum()), content.graph.edges
        single = eap_ig.found(content, graph, file, importances=False)
        if not isinstance(single.circuits, Sized):
            raise InterpretationError(
                f"{file} has scores and keeps no edge, beside {len(paths) - 1} other circuits",
                fix="give one file of importances, or flags of kept edges in each",
            )
        (pruned[file],) = single.circuits.circuits.values()
        notes += [note if note in notes else f"{file.name}: {note}" for note in single.notes]
    return Found(Sized(graph, _by_size(counts, pruned)), tuple(dict.fromkeys(notes)))


def _by_size(counts: dict[Path, tuple[int, int]], circuits: dict[Path, Circuit]) -> dict[float, Circuit]:
    """Circuits by MIB's sizes, if there is one for each; else by their own.

    Args:
        counts: edges kept and all edges, as the file has them.
        circuits: what is run.
    """
    ordered = sorted(counts, key=lambda file: (counts[file][0], file.name))
    sizes = {file: counts[file][0] / counts[file][1] for file in ordered}
    sized = [file for file in ordered if sizes[file] < 1]
    if len(sized) == len(SIZES) and sizes[sized[0]] == 0:
        del sized[0]  # the empty one; if pruning left nothing of small circuits, there are more
    if len(sized) == len(SIZES) - 1:
        for file, size in zip(sized, SIZES, strict=False):
            kept, edges = counts[file]
            if kept > size * edges:
                raise InterpretationError(
                    f"{file} keeps {kept:,} of {edges:,} edges; of nine circuits it is the one for at most "
                    f"{100 * size:g} %, which is {int(size * edges):,}",
                    fix="give circuits of at most .1, .2, .5, 1, 2, 5, 10, 20 and 50 % of all edges",
                )
            sizes[file] = size
    for file, circuit in circuits.items():  # of edges that were merged, a larger share may be kept
        sizes[file] = max(sizes[file], circuit.edges / circuit.graph.edges)
    found: dict[float, Circuit] = {}
    for file in ordered:
        if sizes[file] in found:
            twins = [other.name for other in ordered if sizes[other] == sizes[file]]
            raise InterpretationError(
                f"{file.parent}: {' and '.join(twins)} keep equally many edges ({counts[file][0]:,})",
                fix="give one circuit a size",
            )
        found[sizes[file]] = circuits[file]
    return found


def _circuits(folder: Path) -> list[Path]:
    """Files of circuits, by name; one that is called importances is meant to be one."""
    return [file for file in _candidates(folder) if eap_ig.found_in(file) or _is_of_scores(file)]


def _is_of_scores(file: Path) -> bool:
    return file.name.partition(".")[0].lower() == eap_ig.IMPORTANCES


def _candidates(folder: Path) -> list[Path]:
    """Files that are looked at, by name."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in found if _ending(file) in _ENDINGS and not file.is_dir())


def _ending(file: Path) -> str:
    ending = file.suffix.lower()
    return Path(file.stem).suffix.lower() if ending in _PACKED else ending


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if _circuits(folder)) if path.is_dir() else []


def _is_called(name: str, task: Task) -> bool:
    """Whether a folder's name, TASK_MODEL, means this task; of the model it may be the beginning only."""
    behaviour, _, model = name.rpartition("_")
    if _plain(behaviour) != _plain(task.id.rpartition("/")[2]):
        return False
    named = [_plain(known.rpartition("/")[2]) for known in (task.model.name, task.model.hub) if known]
    return any(known.startswith(_plain(model)) or _plain(model).startswith(known) for known in named)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())
