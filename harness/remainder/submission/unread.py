"""Errors for a path that is no submission: they say what lies there, and what to give instead.

1. A file that belongs into a folder with others: that folder, if it can be read with it, or else what is
   missing beside it.
2. A graph of circuit-tracer, or code: what belongs beside it.
3. A folder: folders one level below, or what its files are; nothing at all: a baseline of a near name.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from remainder.base.files import present
from remainder.base.paths import baseline_folders
from remainder.errors import InterpretationError
from remainder.formats.recognition import Seen, look
from remainder.submission.registry import recognised, resolve

__all__ = ["code_alone", "graph_alone", "not_found", "part_of_folder"]

_TOLD = frozenset(
    {".json", ".pt", ".pth", ".safetensors", ".npz", ".pkl", ".ipynb"}
    | {".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"}
)
"""Files of a folder with one of these endings are looked at, to say what it is."""
_LOOKED_AT = 20
"""Most files of a folder that are looked at."""
_SETTINGS = frozenset({".json", ".yaml", ".yml"})

_OF_GRAPH = """\
name = "my-circuit"
kind = "feature-circuit"
title = "…"
authors = ["…"]
licence = "…"

[method]
format = "feature-graph"
path = "{path}"

[[method.sites]]  # one for every layer that the graph has nodes of
hook_in = "blocks.0.mlp.hook_in"
hook_out = "blocks.0.hook_mlp_out"
submission = "FOLDER_OF_THE_TRANSCODER"
"""

_OF_CODE = """\
name = "my-method"
kind = "reconstruction"
title = "…"
authors = ["…"]
licence = "…"
tasks = ["SUITE/TASK"]

[method]
entry = "{path}:build"
"""


def part_of_folder(path: Path, seen: Seen) -> InterpretationError:
    """The error for settings or weights that are named alone.

    Args:
        path: of the file.
        seen: what it is.
    """
    if _opens(path):
        return InterpretationError(
            f"{path} is a file; a submission is a folder", fix=f"give the folder that holds it: {path.parent}"
        )
    lists = sorted(file for file in path.parent.glob("*") if file.suffix.lower() in {".yaml", ".yml"})
    if lists:
        return InterpretationError(
            f"{path} is {seen.what}; beside it there is {lists[0].name}",
            fix=f"if this is the list of circuit-tracer that names it, give {lists[0]}",
        )
    return InterpretationError(
        f"{path} is {seen.what}; beside it there is no {seen.beside}",
        fix=f"put that into the same folder, {path.parent}, and give the folder",
    )


def _opens(path: Path) -> bool:
    """Whether the folder of a file can be read with it: that has settings, and weights."""
    if present(path.parent / "submission.toml"):
        return True
    row = recognised(path.parent, "hub")
    if row is None or row.files is None:
        return False
    held = resolve(row.files)(path.parent)
    settings = {file for file in held if file.suffix in _SETTINGS}
    # Arrays of numpy tell their format by themselves; other weights need settings beside them.
    return path in held and len(settings) < len(held) and (bool(settings) or path.suffix == ".npz")


def graph_alone(path: Path) -> InterpretationError:
    """The error for a graph that is named alone; it shows what belongs beside it."""
    return InterpretationError(
        f"{path} is a circuit-tracer graph, which names features and does not hold them",
        fix=f"score it as it is: `remainder run --graph {path} --transcoders SET`; or, for a task of a "
        "behaviour, put it into a folder with its transcoders and a submission.toml that says where these "
        "belong:"
        "\n\n" + _OF_GRAPH.format(path=path.name),
    )


def code_alone(path: Path) -> InterpretationError:
    """The error for code that is named alone; it shows what belongs beside it."""
    return InterpretationError(
        f"{path} is code, and beside it there is no submission.toml, which says what it makes",
        fix=f"write one, as docs/submit-a-method.md has it, and give the folder, {path.parent}:"
        "\n\n" + _OF_CODE.format(path=path.name),
    )


def not_found(text: str, folder: Path) -> InterpretationError:
    """The error for a path that holds no submission.

    It names what there is instead: a folder one level below, a file that is no circuit, or a near name.
    """
    if folder.is_dir():
        below = sorted(
            path for path in folder.glob("*") if path.is_dir() and recognised(path, "hub") is not None
        )
        held = ", ".join(sorted(path.name for path in folder.glob("*"))[:6]) or "nothing"
        if not below and (problem := _of_its_files(folder)) is not None:
            return problem
        return InterpretationError(
            f"{text} is no submission: there is no submission.toml in it, nor what a known format consists "
            f"of (it holds {held})",
            fix=f"give one of the folders in it, such as {below[0]}"
            if below
            else "give a folder that SAELens, dictionary_learning, sparsify or circuit-tracer wrote; for a "
            "method with code of its own write a submission.toml (docs/submit-a-method.md)",
        )
    known = list(baseline_folders())
    near = difflib.get_close_matches(text.removeprefix("baselines/"), known, n=3, cutoff=0.4)
    named = ", ".join(near) if near else f"there are {len(known)}, such as {', '.join(known[:3])}"
    return InterpretationError(
        f"{text} is no submission: there is no such folder, and no baseline of that name",
        fix=f"give a folder, hub:OWNER/REPO:SAE_ID, or a baseline ({named})",
    )


def _of_its_files(folder: Path) -> InterpretationError | None:
    """The error that the files of a folder of no known format call for: graphs, a record; None if none do."""
    files = [file for file in sorted(folder.glob("*")) if file.suffix.lower() in _TOLD and file.is_file()]
    seen = {file: look(file) for file in files[:_LOOKED_AT]}
    if graphs := [file for file, one in seen.items() if one.format == "feature-graph"]:
        return graph_alone(graphs[0])
    strange = next((file for file, one in seen.items() if one.is_closed or (one.what and one.is_known)), None)
    if strange is None:
        return None
    if seen[strange].beside:
        return InterpretationError(
            f"{strange} is {seen[strange].what}; beside it there is no {seen[strange].beside}",
            fix="put that into the same folder",
        )
    return seen[strange].refused(strange)
