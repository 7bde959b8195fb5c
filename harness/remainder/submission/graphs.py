"""Attribution graphs as they are, scored without a task or a `submission.toml` written by hand.

1. The transcoders are circuit-tracer's set (`formats.transcoder_set`), with one for every block: what a graph
   does not keep of a block is removed there, also where it has no node of it.
2. The model is the one that the set says it is of, or that is named. It must have the graphs' tokens, blocks
   and name, as far as these tell; whether it gives the graphs' activations shows once it has run.
3. The task is made of the graphs' own prompts (`loading.graph_prompts`), and kept in the cache.
4. The submission is a folder in the cache: a copy of the graphs, and a site for each block, whose weights are
   links to the set's files.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.base.cache import Progress, build_once, sha256_file
from remainder.base.files import read_text, require_file
from remainder.base.progress import shown
from remainder.circuit.feature_graph import FeatureGraph
from remainder.errors import AssetError, InterpretationError, TaskError
from remainder.formats import attribution_graph
from remainder.formats.places import check_model
from remainder.formats.transcoder_set import TranscoderSet, open_set, write_site
from remainder.loading.adapt import GivenModel, given_model
from remainder.loading.graph_prompts import depth_of, graph_task
from remainder.record.naming import LONGEST, shortened
from remainder.task.adhoc import keep, require_savable
from remainder.task.adhoc import save_task as write_task
from remainder.task.spec import Task, load_task

__all__ = ["Prepared", "prepare_graphs"]

ALL, PINNED = "all", "pinned"
_GRAPHS = "graphs"


class Prepared(NamedTuple):
    """The task of attribution graphs, and the submission that they are."""

    task: Task
    folder: Path
    """The submission."""
    notes: tuple[str, ...]
    """Sentences on what was left out."""


def prepare_graphs(
    graphs: str | Path | Sequence[str | Path],
    transcoders: str | Path,
    *,
    model: str | Path | None = None,
    prompts: str | Path | Sequence[str] | None = None,
    nodes: str | float = ALL,
    seed: int = 0,
    save_task: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Prepared:
    """Make the task of attribution graphs, and the submission that they are; nothing is measured.

    What it gives is for `evaluate`: `evaluate(made.task, made.folder)`.

    Args:
        graphs: a file of circuit-tracer or Neuronpedia, a folder of them, or several; all of one model.
        transcoders: the set that they were made with: a folder, or `OWNER/REPO[/FOLDER][@REVISION]` of a hub.
        model: a folder or id, in place of the one that the set names.
        prompts: other prompts, whose activations removed nodes carry: texts, or a file with one a line;
            default: other orders of each graph's own words.
        nodes: `all`, `pinned`, or the share of influence that kept nodes make up.
        seed: of the noise, and of the orders.
        save_task: a folder that the task is written into.
        progress: as for `evaluate`.

    Raises:
        InterpretationError: there is no graph or no set, or they do not belong together, or to the model.
        TaskError: the prompts are too few, or a setting is none.
        AssetError: model or set cannot be had.
    """
    method = _kept(nodes)
    if save_task is not None:
        require_savable(Path(save_task))
    named = [graphs] if isinstance(graphs, (str, Path)) else graphs
    files, notes = _files(named)
    texts = _texts(prompts)
    with shown(progress) as tell:
        one = open_set(str(transcoders), progress=tell)
        given = _model(model, one, tell)
        blocks, _ = depth_of(given)
        if one.hub is not None:  # one without a list has a file a block
            one = open_set(str(transcoders), blocks=blocks, progress=tell)
        warnings = () if one.model is None else check_model(one.model, given.spec, one.where)
        one.require_blocks(blocks)
        read = {name: attribution_graph.load(path, given.spec, blocks) for name, path in files.items()}
        for name, graph in read.items():
            _require_made_with(name, graph, one, given)
        made = graph_task(read, given, prompts=texts, seed=seed)
        folder = _submission(files, one, blocks, method, tell)
        place = keep(made.task, made.prompts)
        if save_task is not None:
            write_task(made.task, made.prompts, Path(save_task))
    return Prepared(load_task(place), folder, (*notes, *warnings))


def _kept(nodes: str | float) -> dict[str, bool | float]:
    """The settings of the submission's format that choose nodes."""
    if nodes == ALL:
        return {}
    if nodes == PINNED:
        return {"pinned": True}
    try:
        share = float(nodes)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise TaskError(
            f"nodes is {nodes!r}", fix=f"give {ALL}, {PINNED}, or a share of influence such as 0.8 (--nodes)"
        )
    return {"share": share}


def _files(graphs: Sequence[str | Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The files of graphs by names of templates, and sentences on what in a folder is none."""
    found: dict[str, Path] = {}
    notes = []
    for named in graphs:
        path = Path(named).expanduser()
        if path.is_dir():
            files = sorted(path.glob("*.json"))
            mine = [file for file in files if attribution_graph.found_in(file)]
            if not mine:
                raise InterpretationError(
                    f"{path} holds no graph of circuit-tracer", fix="give its JSON, by create_graph_files"
                )
            if others := [file.name for file in files if file not in mine]:
                notes.append(f"{path.name} holds no graphs in {', '.join(others)}: left out")
        else:
            require_file(path)
            mine = [path]
        for file in mine:
            found[_template(file, found)] = file
    return found, tuple(notes)


def _template(file: Path, taken: Mapping[str, Path]) -> str:
    """A name for a graph's template that no other has."""
    if any(file.samefile(other) for other in taken.values()):
        raise InterpretationError(f"{file} is named twice", fix="name each graph once")
    name = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._") or "graph"
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return next(each for each in map(shortened, names) if each not in taken)


def _texts(prompts: str | Path | Sequence[str] | None) -> list[str] | None:
    """Other prompts: texts as they are, or the lines of a file."""
    if prompts is None or not isinstance(prompts, (str, Path)):
        return None if prompts is None else list(prompts)
    path = Path(prompts).expanduser()
    return [line for line in read_text(path, "text", error=TaskError).splitlines() if line.strip()]


def _model(model: str | Path | None, one: TranscoderSet, progress: Progress | None) -> GivenModel:
    named = model if model is not None else one.model
    if named is None:
        raise TaskError(f"{one.named} does not say which model it is of", fix="name it: `model` (--model)")
    try:
        return given_model(named, progress=progress)
    except AssetError as problem:
        if model is not None:
            raise
        raise AssetError(
            f"{problem.what}; {one.named} says that it is of this model",
            fix=f"{problem.fix}; or name where the model lies: `model` (--model)",
        ) from problem


def _require_made_with(name: str, graph: FeatureGraph, one: TranscoderSet, given: GivenModel) -> None:
    """Refuse a graph whose metadata names other transcoders, where both say which."""
    scan, own = graph.model, one.scan
    if own is None or "/" not in scan or "/" not in own or scan in (given.spec.hub, given.spec.name):
        return
    if _address(scan) != _address(own):
        raise InterpretationError(
            f"graph {name} was made with the transcoders {scan} (metadata.scan); {one.named} is {own}",
            fix=f"give those: `transcoders` (--transcoders {scan})",
        )


def _address(scan: str) -> str:
    """An address without its revision; circuit-tracer writes OWNER/REPO//FOLDER@REVISION."""
    return re.sub(r"/+", "/", scan.removeprefix("hf://").partition("@")[0]).strip("/").lower()


def _submission(
    files: Mapping[str, Path],
    one: TranscoderSet,
    blocks: int,
    method: Mapping[str, bool | float],
    progress: Progress | None,
) -> Path:
    """The folder of the submission."""
    weights = one.fetched(blocks, progress)
    hashed = {name: sha256_file(path) for name, path in files.items()}
    linked = {block: (str(path.absolute()), sha256_file(path)) for block, path in weights.items()}
    content = {"graphs": hashed, "weights": linked, "fields": one.fields, "method": dict(method)}
    key = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]

    def build(folder: Path) -> None:
        (folder / _GRAPHS).mkdir()
        for name, path in files.items():
            shutil.copyfile(path, folder / _GRAPHS / f"{name}.json")
        places = [write_site(one, block, path, folder) for block, path in sorted(weights.items())]
        lines = _head(files, one, method)
        for block, place in enumerate(places):
            source, target = one.hooks(block)
            lines += ["", "[[method.sites]]", f"hook_in = {json.dumps(source)}"]
            lines += [f"hook_out = {json.dumps(target)}", f"submission = {json.dumps(str(place))}"]
        (folder / "submission.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return build_once("graph-circuits", key, build, progress=progress)


def _head(files: Mapping[str, Path], one: TranscoderSet, method: Mapping[str, bool | float]) -> list[str]:
    """The beginning of `submission.toml`, up to the sites."""
    chosen = "".join("-pinned" if value is True else f"-{value:g}" for value in method.values())
    what = next(iter(files)) if len(files) == 1 else f"{len(files)}-graphs"
    name = f"{shortened(what, LONGEST - len(chosen))}{chosen}"
    title = f"{what}, with the transcoders {one.named}"
    settings = [f"{setting} = {json.dumps(value)}" for setting, value in method.items()]
    return [
        f"name = {json.dumps(name)}",
        'kind = "feature-circuit"',
        f"title = {json.dumps(title, ensure_ascii=False)}",
        "authors = []",
        'licence = "unknown"',
        "",
        "[method]",
        'format = "feature-graph"',
        f'path = "{_GRAPHS}"',
        *settings,
    ]
