"""The circuits of features that a submission stands for: its sites, and which of their nodes are kept.

1. Sites: each is named by a task on a text of the same model, or by its hooks; its interpretation is a
   submission of a reconstruction that is read from files. Their order is that of a pass.
2. Circuits, by the format of the submission:
   - `feature-attribution`: scores of all nodes on the task's `fit` prompts
     (`circuit.feature_scores.score_nodes`), cut at every threshold;
   - `feature-scores`: scores from a file (`circuit.feature_scores.load_scores`), cut likewise;
   - `feature-graph`: a circuit-tracer graph for every template, whole, pinned or pruned: a single circuit.
3. Thresholds that keep no node give no circuit, and of those that keep the same nodes only the largest does;
   the notes say which were left out.

Source: protocol 1, section 8; Marks et al., "Sparse feature circuits", 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
import torch

from remainder.circuit.feature_circuits import FeatureCircuits
from remainder.circuit.feature_graph import FeatureGraph
from remainder.circuit.feature_scores import (
    THRESHOLDS,
    NodeScores,
    at_threshold,
    circuit_of_graph,
    load_scores,
    score_nodes,
)
from remainder.circuit.features import FeatureCircuit, FeatureSite, record_nodes
from remainder.errors import InterpretationError
from remainder.formats import attribution_graph
from remainder.interpretation.protocol import Adapted
from remainder.model.sites import BridgeSiteModel
from remainder.record.circuit_summary import BEYOND
from remainder.submission.aliases import require_same
from remainder.submission.method import Method, SiteSource
from remainder.submission.open import open_site
from remainder.task.prompts import Prompts, first
from remainder.task.spec import Site, Task, load_task

if TYPE_CHECKING:
    from remainder.loading.prompts import PromptTask
    from remainder.submission.submission import Submission

__all__ = ["FoundFeatures", "attribute", "read_graphs", "read_scores", "site_tasks"]

_STEPS = 10
_AWAY = 0.25
"""Largest median by which a graph's activations may be off, as a share: most graphs are made in bfloat16."""


class FoundFeatures(NamedTuple):
    """Circuits of features that were read or found."""

    circuits: FeatureCircuits
    notes: tuple[str, ...]
    """Notes for people on how they came about."""


def site_tasks(sources: Sequence[SiteSource], task: Task) -> list[Task]:
    """Tasks whose sites are those that `sources` name, of the model of `task`.

    Raises:
        InterpretationError: a task that one names has no site, or another model; or two sites are one.
    """
    found = [_site_task(source, task) for source in sources]
    hooks = [each.site.hook_out for each in found]
    if twice := [hook for place, hook in enumerate(hooks) if hook in hooks[:place]]:
        raise InterpretationError(f"sites: {twice[0]} is named twice", fix="name each site once")
    return found


def _site_task(source: SiteSource, task: Task) -> Task:
    if source.task is None:
        assert source.hook_in is not None
        site = Site(hook_in=source.hook_in, hook_out=source.hook_out or source.hook_in, width=task.site.width)
        return task.model_copy(update={"site": site, "circuit": None})
    found = load_task(source.task)
    if not found.kind.has_residual:
        raise InterpretationError(
            f"sites: task {found.id} scores circuits and names no site of its own",
            fix="name a task on a text, or give `hook_in`",
        )
    words = {"name", "licence", "attribution"}
    if found.build is not None or found.model.model_dump(exclude=words) != task.model.model_dump(
        exclude=words
    ):
        raise InterpretationError(
            f"sites: the model of {found.id} is {found.model.name}; that of {task.id} is {task.model.name}",
            fix="name sites of the model whose behaviour is explained",
        )
    return found


def attribute(submission: Submission, loaded: PromptTask, fit_windows: int) -> FoundFeatures:
    """Circuits of the nodes whose attribution on `fit` prompts is beyond each threshold.

    Raises:
        TaskError: the task's model has no hooks.
        InterpretationError: an interpretation does not fit its site, or no node is kept.
    """
    placed = _placed(submission, loaded)
    with torch.inference_mode(False):
        scores = dict(_attributed(submission.method, loaded, fit_windows, placed))
    return placed.noted(_cut(submission.method, placed.sites, scores))


def read_scores(submission: Submission, loaded: PromptTask, fit_windows: int) -> FoundFeatures:
    """Circuits of the nodes whose score in a file is beyond each threshold.

    Raises:
        TaskError: the task's model has no hooks.
        InterpretationError: the file is not sound, or of other sites and templates; or no node is kept.
    """
    placed = _placed(submission, loaded)
    assert submission.folder is not None
    scores = load_scores(
        submission.folder / submission.method.get("path"), _features(placed, loaded), _lengths(loaded)
    )
    return placed.noted(_cut(submission.method, placed.sites, scores))


def read_graphs(submission: Submission, loaded: PromptTask, fit_windows: int) -> FoundFeatures:
    """The circuit of the nodes of a circuit-tracer graph for every template, whole, pinned or pruned.

    Raises:
        TaskError: the task's model has no hooks.
        InterpretationError: a graph is not sound, or of other sites and templates; or no node is kept.
    """
    placed = _placed(submission, loaded)
    return placed.noted(_of_graphs(submission, loaded, placed))


class _Placed(NamedTuple):
    """The interpretations of a submission's sites, at hooks of the task's model."""

    model: BridgeSiteModel
    sites: tuple[FeatureSite, ...]
    notes: tuple[str, ...]

    def noted(self, features: FoundFeatures) -> FoundFeatures:
        """Add the notes on the interpretations behind those on the circuits."""
        return features._replace(notes=(*features.notes, *self.notes))


def _placed(submission: Submission, loaded: PromptTask) -> _Placed:
    sources = submission.method.get("sites")
    tasks = site_tasks(sources, loaded.task)
    placed = [
        (task.site, _interpretation(submission, source, task))
        for source, task in zip(sources, tasks, strict=True)
    ]
    for _, each in placed:
        require_same(loaded, each)
    named: dict[str, list[str]] = {}
    for _, each in placed:
        for warning in each.warnings:
            named.setdefault(warning, []).append(each.name)
    notes = (f"{_some(names)}: {warning}" for warning, names in named.items())
    sites = (FeatureSite(site.hook_in, site.hook_out, each.placed(loaded.device)) for site, each in placed)
    return _Placed(loaded.site_model(), tuple(sites), tuple(notes))


def _interpretation(submission: Submission, source: SiteSource, task: Task) -> Adapted:
    """The interpretation of one of the sites, for that of `task`."""
    assert submission.folder is not None
    own = open_site(submission.folder, source)
    if source.task is not None:
        own.require_fit(task)

    def no_moments() -> NoReturn:
        raise InterpretationError(
            f"sites: {source.submission}: format {own.method.format} is fitted to a text",
            fix="give a submission that is read from files, such as that of an SAE",
        )

    return own.load(task, no_moments).adapted(task.site.width, own.name)


def _lengths(loaded: PromptTask) -> dict[str, int]:
    """Positions of a prompt of each template."""
    return {group.template: group.tokens.shape[1] for group in loaded.prompts("evaluation")}


def _attributed(
    method: Method, loaded: PromptTask, fit_windows: int, placed: _Placed
) -> Iterator[tuple[str, NodeScores]]:
    groups = first(loaded.prompts("fit"), fit_windows)
    for done, group in enumerate(groups):
        if loaded.progress is not None:
            loaded.progress("scoring latents and errors", done, len(groups))
        yield (
            group.template,
            score_nodes(
                placed.model,
                placed.sites,
                group,
                ablation=method.get("scored_against") or "mean",
                steps=method.get("steps") or _STEPS,
                device=loaded.device,
            ),
        )


def _cut(method: Method, sites: tuple[FeatureSite, ...], scores: Mapping[str, NodeScores]) -> FoundFeatures:
    """Cut scores at every threshold: step 3 of this module's text."""
    thresholds = method.get("thresholds") or THRESHOLDS
    names = [f"{BEYOND}{threshold:.3g}" for threshold in thresholds]
    if len(set(names)) < len(names):
        raise InterpretationError(
            "thresholds: two are the same to three digits", fix="choose thresholds farther apart"
        )
    circuits: dict[str, dict[str, FeatureCircuit]] = {}
    empty: list[str] = []
    same: list[str] = []
    for name, threshold in reversed(list(zip(names, thresholds, strict=True))):
        cut = {template: at_threshold(found, threshold) for template, found in scores.items()}
        kept = sum(part.nodes for part in cut.values())
        if not kept:
            empty.append(name)
        # A lower threshold keeps all that a higher one keeps, so equally many nodes are the same ones.
        elif circuits and kept == sum(part.nodes for part in circuits[next(reversed(circuits))].values()):
            same.append(name)
        else:
            circuits[name] = cut
    if not circuits:
        largest = max(float(part.abs().max()) for sites_ in scores.values() for part in sites_.values())
        raise InterpretationError(
            f"no node has a score beyond {thresholds[0]:g} nats; the largest is {largest:.3g}",
            fix="give lower `thresholds`",
        )
    notes = [f"{_listed(empty)}: no node has such a score"] if empty else []
    notes += [f"{_listed(same)}: the same nodes as of the next larger threshold"] if same else []
    ordered = dict(reversed(list(circuits.items())))
    return FoundFeatures(FeatureCircuits(sites, ordered, scores), tuple(notes))


def _of_graphs(submission: Submission, loaded: PromptTask, placed: _Placed) -> FoundFeatures:
    assert submission.folder is not None
    method, path = submission.method, submission.folder / submission.method.get("path")
    features, lengths = _features(placed, loaded), _lengths(loaded)
    if path.is_file() and len(lengths) > 1:
        raise InterpretationError(
            f"{path} is one graph, and {loaded.task.id} has the templates {', '.join(sorted(lengths))}",
            fix="give a folder with a graph TEMPLATE.json of a prompt of each",
        )
    layers: int = placed.model.bridge.cfg.n_layers
    groups = {group.template: group for group in loaded.prompts("evaluation")}
    by_template = {}
    notes: list[str] = []
    for template, length in lengths.items():
        file = path if path.is_file() else path / f"{template}.json"
        if not file.is_file():
            raise InterpretationError(
                f"{file}: there is no graph of template {template}",
                fix="make one of a prompt of this template",
            )
        graph = attribution_graph.load(file, loaded.task.model, layers)
        chosen = graph.pinned() if method.get("pinned") else graph
        chosen = chosen if method.get("share") is None else chosen.pruned(method.get("share"))
        by_template[template] = circuit_of_graph(chosen, placed.sites, features, length)
        agreement = _agreement(graph, file, placed, groups[template], loaded.device)
        notes += [
            note if note.startswith(f"{file.name} ") else f"{file.name}: {note}"
            for note in (*graph.notes, *agreement)
        ]
        if not graph.has_probabilities:
            notes.append(f"{file.name}: no logit has a probability (token_prob), so its graph has no scores")
            continue
        if graph.shared_ids:  # its notes say why it has no scores
            continue
        scores = graph.scores()
        replacement = "none" if scores.replacement is None else f"{scores.replacement:.3g}"
        notes.append(
            f"{file.name}: by the links of its graph alone replacement {replacement}, completeness "
            f"{scores.completeness:.3g}"
        )
    circuits = FeatureCircuits(placed.sites, {"graph": by_template})
    if not circuits.count("graph").nodes:
        raise InterpretationError(f"{path}: no node is kept", fix="raise `share`, or pin nodes")
    return FoundFeatures(circuits, tuple(notes))


def _agreement(
    graph: FeatureGraph, file: Path, placed: _Placed, prompts: Prompts, device: torch.device
) -> tuple[str, ...]:
    """A sentence on how well the activations in a graph are those here, if its prompt is one of `prompts`.

    Raises:
        InterpretationError: most are others.
    """
    ids = {node.position: node.number for node in graph.nodes if node.kind == "token"}
    own = [ids.get(position, -1) for position in range(len(graph.tokens))]
    rows = np.flatnonzero((prompts.tokens == np.array(own)).all(1))
    stated = [node for node in graph.nodes if node.kind == "feature" and node.activation]
    if not len(rows) or not stated:
        return ()
    tokens = torch.from_numpy(prompts.tokens[rows[:1]]).to(device)
    latents = {
        site.name: part.latents[0].cpu()
        for site, part in zip(
            placed.sites, record_nodes(placed.model, placed.sites, tokens, 1).values(), strict=True
        )
    }
    by_block = {int(name.split(".")[1]): part for name, part in latents.items()}
    here = np.array([float(by_block[node.layer][node.position, node.number]) for node in stated])
    there = np.array([node.activation for node in stated], dtype=np.float64)
    away = np.abs(here - there) / np.abs(there)
    median = float(np.median(away))
    if median > _AWAY:
        worst = int(np.argsort(away)[len(away) // 2])
        raise InterpretationError(
            f"{file}: half of its {len(stated)} features have activations that are off by over {median:.0%} "
            f"here, such as {stated[worst].id}: {there[worst]:.4g} in the graph, {here[worst]:.4g} here",
            fix="give the model and the transcoders that the graph was made with",
        )
    return (
        f"the activations of its {len(stated)} features are off by {median:.2g} of their size here (median)",
    )


def _features(placed: _Placed, loaded: PromptTask) -> dict[str, int]:
    """Latents of each site, by its name."""
    group: Prompts = loaded.prompts("calibration")[0]
    tokens = torch.from_numpy(group.tokens[:1]).to(loaded.device)
    with torch.no_grad():
        nodes = record_nodes(placed.model, placed.sites, tokens, 1)
    return {name: part.latents.shape[-1] for name, part in nodes.items()}


def _some(names: Sequence[str]) -> str:
    """The first of some names, and how many others there are."""
    several = len(set(names)) - 1
    return names[0] if not several else f"{names[0]} and {several} other{'s' if several > 1 else ''}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(reversed(names))
