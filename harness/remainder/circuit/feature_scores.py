"""Finding circuits of features: attribution patching with integrated gradients, and attribution graphs.

1. One site at a time, all its nodes are set to f + (k/m)(f' − f), k = 0 … m − 1, between their clean values f
   and background values f', with everything before the site clean. Background values are those of the
   counterfactual prompt, the mean over the prompts at each position, or 0.
2. The score of a node is  ∂answer/∂f_j · (f_j − f'_j), averaged over k and over prompts; for an error node it
   is summed over coordinates. A positive score is, to first order, the loss of the answer without the node.
   Marks et al. have the other sign, and take absolute values as we do.
3. A circuit consists of all nodes whose score exceeds a threshold in absolute value, position by position.

Nodes that the counterfactual does not change score zero against it, however much they matter. So circuits
that are run with the counterfactual background should be found against it, and circuits that are run with a
mean or a Gaussian should be found against the mean.

A graph of circuit-tracer is a circuit as well: its features (pinned, or pruned by influence) at their
positions, and its error nodes.

Source: Marks et al., "Sparse feature circuits", 2024, and its code, `attribution.py` (`ig`, 10 steps) and
`experiments/faithfulness.ipynb` (15 thresholds from 10⁻⁴ to 1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from remainder.circuit.attribution_metric import answer, seen_prompts
from remainder.circuit.feature_graph import FeatureGraph
from remainder.circuit.features import (
    FeatureCircuit,
    FeatureSite,
    NodeValues,
    map_nodes,
    positions_of,
    record_nodes,
)
from remainder.errors import InterpretationError, MeasurementError, TaskError
from remainder.model.sites import SiteModel, entry_of, run_from
from remainder.task.prompts import Prompts

__all__ = [
    "ABLATIONS",
    "THRESHOLDS",
    "NodeScores",
    "at_threshold",
    "circuit_of_graph",
    "load_scores",
    "save_scores",
    "score_nodes",
]

THRESHOLDS: tuple[float, ...] = tuple(np.logspace(-4, 0, 15).tolist())

ABLATIONS = ("counterfactual", "mean", "zero")
"""Backgrounds against which nodes are scored."""

NodeScores = Mapping[str, Float[Tensor, "pos nodes"]]
"""Scores of a site's latents, and last of its error, in nats of the answer, by site."""


def score_nodes(
    model: SiteModel,
    sites: Sequence[FeatureSite],
    prompts: Prompts,
    *,
    ablation: str = "counterfactual",
    steps: int = 10,
    rows: int = 16,
    device: torch.device | None = None,
) -> dict[str, Float[Tensor, "pos nodes"]]:
    """Score of every node of a template, float64; see the module's text.

    Args:
        prompts: prompts of one template, from the split on which circuits are found.
        ablation: one of `ABLATIONS`.
        steps: number m of steps of integrated gradients.
        rows: prompts in one pass.

    Raises:
        TaskError: if there is no such ablation.
        InterpretationError: if a decoder blocks the gradient.
        MeasurementError: if a score is not finite.
    """
    if ablation not in ABLATIONS:
        raise TaskError(
            f"nodes cannot be scored against {ablation!r}", fix=f"choose from: {', '.join(ABLATIONS)}"
        )
    places = positions_of(prompts)

    def recorded(tokens: NDArray[np.int64]) -> dict[str, NodeValues]:
        return record_nodes(model, sites, torch.from_numpy(tokens).to(device or "cpu"), rows)

    means = {}
    if ablation == "mean":
        means = map_nodes(recorded(prompts.tokens), lambda part: part.mean(0, keepdim=True))
    totals: dict[str, Tensor] = {}
    for start in range(0, len(prompts), rows):
        part = prompts.take(slice(start, start + rows))
        tokens = torch.from_numpy(part.tokens).to(device or "cpu")
        seen, clean = seen_prompts(part, places), recorded(part.tokens)
        if ablation == "counterfactual":
            other = recorded(part.counterfactual)
        else:
            other = means or map_nodes(clean, torch.zeros_like)
        for site in sites:
            scores = _score_site(model, site, tokens, seen, places, clean[site.name], other[site.name], steps)
            totals[site.name] = totals.get(site.name, 0) + scores / len(prompts)
    for name, scores in totals.items():
        if not torch.isfinite(scores).all():
            raise MeasurementError(
                f"template {prompts.template}: {int((~torch.isfinite(scores)).sum())} scores at {name} are "
                "NaN or infinite",
                fix="check the scale of the decoder, and what its gradient is at these activations",
            )
    return totals


def _score_site(
    model: SiteModel,
    site: FeatureSite,
    tokens: Tensor,
    seen: Prompts,
    places: list[int],
    clean: NodeValues,
    other: NodeValues,
    steps: int,
) -> Float[Tensor, "pos nodes"]:
    """Scores of one site's nodes, summed over the prompts."""
    total = torch.zeros(clean.latents.shape[1], clean.latents.shape[2] + 1, dtype=torch.float64)
    # Everything before the site is clean, in every step.
    entry = entry_of(model, tokens, (site.hook_in, site.hook_out))
    for step in range(steps):
        with torch.enable_grad():
            share = step / steps
            latents = torch.lerp(clean.latents, other.latents, share).requires_grad_()
            error = torch.lerp(clean.error, other.error, share).requires_grad_()
            edits = site.edits(
                lambda read, x_out, latents=latents, error=error: site.rebuild(latents, read) + error
            )
            logits = run_from(model, entry, tokens, edits, places)
            try:
                of_latents, of_error = torch.autograd.grad(
                    answer(logits, logits.detach(), seen).sum(), (latents, error)
                )
            except RuntimeError as problem:
                raise InterpretationError(
                    f"{site.name}: there is no gradient through decode: {problem}",
                    fix="decode without torch.no_grad and in torch operations",
                ) from problem
        total[:, :-1] += (of_latents * (clean.latents - other.latents)).sum(0).double().cpu()
        total[:, -1] += (of_error * (clean.error - other.error)).sum((0, 2)).double().cpu()
    return total / steps


def at_threshold(scores: NodeScores, threshold: float) -> FeatureCircuit:
    """The circuit of nodes whose score exceeds `threshold`, in nats, in absolute value."""
    kept = {name: part.abs() > threshold for name, part in scores.items()}
    return FeatureCircuit(
        {name: part[:, :-1] for name, part in kept.items()},
        {name: part[:, -1] for name, part in kept.items()},
    )


def circuit_of_graph(
    graph: FeatureGraph, sites: Sequence[FeatureSite], features: Mapping[str, int], positions: int
) -> FeatureCircuit:
    """The circuit that keeps the features and errors of a circuit-tracer graph.

    Args:
        graph: a graph: whole, pinned or pruned.
        sites: transcoders of MLPs, distinguished by the block of their `hook_out`.
        features: number of latents of each site, by name.
        positions: number of tokens in a prompt of the template.

    Raises:
        InterpretationError: if the graph's prompt has another length, or the sites lack some of its nodes.
    """
    if len(graph.tokens) != positions:
        raise InterpretationError(
            f"the graph is of a prompt of {len(graph.tokens)} tokens, the template has {positions}",
            fix="make the graph of a prompt of this template, with its first special token",
        )
    blocks: dict[int, str] = {}
    for site in sites:
        match = re.match(r"blocks\.(\d+)\.", site.name)
        if match is not None:
            blocks[int(match[1])] = site.name
    kept, errors = graph.features(), graph.errors()
    strange = sorted((kept.keys() | errors.keys()) - blocks.keys())
    if strange:
        raise InterpretationError(
            f"the graph has nodes in block {strange[0]}; there are interpretations of "
            f"{', '.join(map(str, sorted(blocks))) or 'none'}",
            fix="give the transcoder of every block that the graph has nodes of",
        )
    circuit = FeatureCircuit(
        {name: torch.zeros(positions, features[name], dtype=torch.bool) for name in features},
        {name: torch.zeros(positions, dtype=torch.bool) for name in features},
    )
    for block, at in kept.items():
        flags = circuit.latents[blocks[block]]
        for position, numbers in at.items():
            if max(numbers) >= flags.shape[1]:
                raise InterpretationError(
                    f"the graph names feature {max(numbers)} of block {block}; its transcoder has "
                    f"{flags.shape[1]}",
                    fix="give the transcoders that the graph was made with (metadata.scan)",
                )
            flags[position, list(numbers)] = True
    for block, places in errors.items():
        circuit.errors[blocks[block]][list(places)] = True
    return circuit


def save_scores(path: Path, scores: Mapping[str, NodeScores]) -> None:
    """Write the scores of all templates: `template/hook` → [positions, latents + 1] float32, safetensors."""
    tensors = {
        f"{template}/{name}": part.float().contiguous()
        for template, sites in scores.items()
        for name, part in sites.items()
    }
    save_file(tensors, path)


def load_scores(
    path: Path, features: Mapping[str, int], positions: Mapping[str, int]
) -> dict[str, dict[str, Float[Tensor, "pos nodes"]]]:
    """Read what `save_scores` wrote: template → site → scores.

    Args:
        features: number of latents of each site.
        positions: number of tokens of each template.

    Raises:
        InterpretationError: if the file is malformed; names the tensor, what was found and what was expected.
    """
    try:
        stored: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as problem:
        raise InterpretationError(
            f"{path} is no whole safetensors file: {problem}", fix="write it again with save_scores"
        ) from problem
    expected = {
        f"{template}/{name}": (length, width + 1)
        for template, length in positions.items()
        for name, width in features.items()
    }
    if stored.keys() != expected.keys():
        missing, strange = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
        what = f"lacks {missing[0]}" if missing else f"has {strange[0]}, which is no template and site"
        raise InterpretationError(
            f"{path} {what}", fix=f"give exactly these tensors: {', '.join(sorted(expected))}"
        )
    scores: dict[str, dict[str, Tensor]] = {template: {} for template in positions}
    for key, shape in expected.items():
        part = stored[key]
        if tuple(part.shape) != shape or not part.is_floating_point() or not torch.isfinite(part).all():
            raise InterpretationError(
                f"{path}: {key} has shape {tuple(part.shape)}, type {part.dtype}"
                f"{'' if torch.isfinite(part).all() else ' and values that are not finite'}; expected finite "
                f"floats {shape} [positions, latents and last the error]",
                fix="give one score for every node",
            )
        template, name = key.rsplit("/", 1)
        scores[template][name] = part.double()
    return scores
