"""Options of `remainder run` that score an attribution graph as it is, without a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remainder.base.wrapping import fill
from remainder.errors import TaskError
from remainder.report.layout import WIDTH

if TYPE_CHECKING:
    from remainder.submission.graphs import Prepared

__all__ = [
    "GraphModelOption",
    "GraphOption",
    "NodesOption",
    "PromptsOption",
    "SaveTaskOption",
    "TranscodersOption",
    "of_graphs",
]

GraphOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="GRAPH",
        help="An attribution graph of circuit-tracer or Neuronpedia (.json), or a folder of them: scored on "
        "its own prompt, with --transcoders and without a task; may be given again.",
    ),
]
TranscodersOption = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="The transcoders that the graph was made with: a folder with config.yaml, or "
        "OWNER/REPO\\[/FOLDER]\\[@REVISION] of the hub.",
    ),
]
GraphModelOption = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="The graph's model, a folder or an id. Default: that of the set."),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Other prompts, one a line, with as many tokens as the graph's: what removed nodes carry is of "
        "these. Default: other orders of the graph's own words.",
    ),
]
NodesOption = Annotated[
    str,
    typer.Option(
        metavar="NODES", help="Nodes of the graph that are kept: all, pinned, or a share of influence (0.8)."
    ),
]
SaveTaskOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write the graph's task into this folder, which any command takes."),
]


def of_graphs(
    graphs: Sequence[Path],
    transcoders: str | None,
    named: tuple[list[str], list[str] | None],
    *,
    model: str | None,
    prompts: Path | None,
    nodes: str,
    save_task: Path | None,
) -> tuple[list[str], list[str] | None]:
    """The task and the submission of some graphs, as other commands name them.

    Args:
        named: tasks and submissions without graphs, which are given back where there is none.

    Raises:
        RemainderError: as `prepare_graphs`; or the options do not go together.
    """
    beside = {"--transcoders": transcoders, "--model": model, "--prompts": prompts, "--save-task": save_task}
    if not graphs:
        if given := [option for option, value in beside.items() if value is not None]:
            raise TaskError(f"{given[0]} is of a graph, and there is none", fix="name it: --graph GRAPH")
        return named
    if others := [*named[0], *(named[1] or ())]:
        raise TaskError(
            f"--graph brings its own task and circuit, and {others[0]} is named beside it",
            fix="leave that out; with --save-task the graph's task can be measured with other circuits",
        )
    if transcoders is None:
        raise TaskError(
            "a graph names its features by number, and without their transcoders they say nothing",
            fix="name the set that it was made with: --transcoders SET",
        )
    from remainder.base.progress import errors, reporting

    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.submission.graphs import prepare_graphs

        made = prepare_graphs(
            graphs,
            transcoders,
            model=model,
            prompts=prompts,
            nodes=nodes,
            save_task=save_task,
            progress=progress,
        )
    errors.print(_words(made), soft_wrap=True, markup=False)
    return [made.task.id], [str(made.folder)]


def _words(made: Prepared) -> str:
    """The task in words, and what was left out."""
    described = fill(f"  {made.task.description}", WIDTH, hanging="  ")
    notes = [fill(f"! {note}", WIDTH, hanging="  ") for note in made.notes]
    kept = fill(f"  The circuit is kept as a submission: {made.folder}", WIDTH, hanging="  ")
    return "\n".join([made.task.id, described, kept, *notes])
