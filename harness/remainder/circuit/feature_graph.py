"""The attribution graph of one prompt, as a circuit of features: nodes, links, and which nodes to keep.

1. Nodes are features of transcoders, their errors, tokens and logits, each at a position; the weight of a
   link is the direct addition of its source to its target.
2. `FeatureGraph.pinned` and `.pruned` choose nodes: the ones that a person pinned, or the ones that account
   for a share of all influence.
3. `FeatureGraph.features` and `.errors` list the kept nodes, for a run with everything else replaced.
4. `FeatureGraph.scores` are those of circuit-tracer, computed from the links alone, without the model. With A
   the sizes of the links, each target's divided by their sum, and w the logits' probabilities: influence I =
   Σₙ w Aⁿ; replacement = I_tokens / (I_tokens + I_errors); completeness = Σᵢ (1 − Σ_errors Aᵢ)(Iᵢ + wᵢ) / Σᵢ
   (Iᵢ + wᵢ). They describe the graph in the file, which is mostly pruned; circuit-tracer's own describe the
   whole one.

Source: https://github.com/safety-research/circuit-tracer, `graph.py` (`compute_graph_scores`,
`find_threshold`). The reader of its files is `formats.attribution_graph`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.base.files import brief
from remainder.errors import InterpretationError

__all__ = ["FeatureGraph", "FeatureNode", "GraphScores", "Kind"]

Kind = Literal["feature", "error", "token", "logit"]

_LEAST = 1e-10
"""Least divisor of a target's links, as in circuit-tracer."""


class FeatureNode(NamedTuple):
    """A node of the graph."""

    id: str
    """The name by which links refer to it."""
    kind: Kind
    layer: int
    """Block whose MLP's output it is part of; -1 for tokens, the number of blocks for logits."""
    number: int
    """Index of a feature in its transcoder; id of a token or logit in the vocabulary; -1 for errors, and for
    logits that do not state it."""
    position: int
    activation: float | None
    influence: float | None
    """Share of all influence that falls on this node and all more influential ones: small is important."""
    probability: float
    """Probability of a logit; 0 for other nodes."""


class GraphScores(NamedTuple):
    """Shares of a graph's influence that go through features."""

    replacement: float | None
    """Influence of tokens over that of tokens and errors; None if neither has any."""
    completeness: float
    """Share of nodes' inputs that does not come from errors, weighted by the nodes' influence."""


@dataclass(frozen=True)
class FeatureGraph:
    """Features at positions of one prompt, and the links between them."""

    model: str
    """Name of model and transcoders in the file (metadata.scan)."""
    prompt: str
    tokens: tuple[str, ...]
    """Tokens of the prompt, one per position."""
    nodes: tuple[FeatureNode, ...]
    sources: NDArray[np.int64]
    """[links]: places in `nodes`."""
    targets: NDArray[np.int64]
    """[links]"""
    weights: NDArray[np.float64]
    """[links]: the part of the target's value that comes from the source, with its sign."""
    pinned_ids: tuple[str, ...] = ()
    """Nodes that a person pinned in the frontend."""
    gone_ids: tuple[str, ...] = ()
    """Pinned ids without a node, for example of nodes that were pruned after pinning."""
    shared_ids: tuple[str, ...] = ()
    """Ids that a feature and an error have in common, so that links of these are not in the graph."""
    unknown: tuple[str, ...] = ()
    """A sentence for each unknown field, which was ignored."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on parts of the file that are not used."""
        found = self.unknown
        if self.shared_ids:
            found = (
                f"{_some(self.shared_ids)}: each the id of a feature and of an error, as up to "
                "circuit-tracer 0.5.0; both are read, and links of these left out, so that the graph has no "
                "scores",
                *found,
            )
        if self.gone_ids:
            gone = f"qParams.pinnedIds names {_some(self.gone_ids)}, no node of the graph: left out"
            found = (gone, *found)
        return found

    def features(self) -> dict[int, dict[int, tuple[int, ...]]]:
        """Block → position → ids of its features, ascending."""
        layers: dict[int, dict[int, tuple[int, ...]]] = {}
        for node in sorted(self.nodes, key=lambda node: (node.layer, node.position, node.number)):
            if node.kind == "feature":
                at = layers.setdefault(node.layer, {})
                at[node.position] = (*at.get(node.position, ()), node.number)
        return layers

    def errors(self) -> dict[int, tuple[int, ...]]:
        """Block → positions of its error nodes, ascending."""
        layers: dict[int, tuple[int, ...]] = {}
        for node in sorted(self.nodes, key=lambda node: (node.layer, node.position)):
            if node.kind == "error":
                layers[node.layer] = (*layers.get(node.layer, ()), node.position)
        return layers

    def pinned(self) -> FeatureGraph:
        """The pinned nodes, tokens and logits, and the links between them.

        Raises:
            InterpretationError: if nothing is pinned, or a pinned node is missing.
        """
        if self.gone_ids:
            raise InterpretationError(
                f"qParams.pinnedIds names {_some(self.gone_ids)}, no node of the graph, and its pinned nodes "
                "are asked for",
                fix="pin nodes of this graph, or export it with the nodes that are pinned",
            )
        if unclear := [name for name in self.pinned_ids if name in self.shared_ids]:
            raise self._unclear(f"{_some(unclear)} is pinned", "pin other nodes, or")
        if not self.pinned_ids:
            raise InterpretationError(
                "the graph pins no node (qParams.pinnedIds is empty)",
                fix="pin nodes in the frontend, or choose them by their share of influence",
            )
        wanted = set(self.pinned_ids)
        return self._of(np.array([node.id in wanted or _is_end(node) for node in self.nodes]))

    def pruned(self, share: float) -> FeatureGraph:
        """The most influential nodes that together reach `share` of all influence, with tokens and logits.

        Features and errors without a link to another of these are dropped, and features without a link into
        them.

        Raises:
            InterpretationError: if `share` is not a share, or a node has no influence.
        """
        if not 0 <= share <= 1:
            raise InterpretationError(f"{share} is not a share of influence", fix="choose one from 0 to 1")
        if self.shared_ids:
            raise self._unclear("a share of influence is taken along links", "keep all nodes, or")
        reach = []
        for node in self.nodes:
            if node.influence is None and node.kind != "logit":
                raise InterpretationError(
                    f"node {node.id} has no influence", fix="export the graph again with circuit-tracer"
                )
            reach.append(math.inf if node.influence is None else node.influence)
        reached = np.array(reach)
        last = min(
            (value for value in reach if value >= share), default=math.inf
        )  # including the node that reaches it
        ends = np.array([_is_end(node) for node in self.nodes])
        feature = np.array([node.kind == "feature" for node in self.nodes])
        kept = ends | (reached <= last)
        while True:
            linked = kept[self.sources] & kept[self.targets]
            gives, takes = np.zeros_like(kept), np.zeros_like(kept)
            gives[self.sources[linked]] = True
            takes[self.targets[linked]] = True
            after = kept & (ends | (gives & (takes | ~feature)))
            if (after == kept).all():
                return self._of(kept)
            kept = after

    @property
    def has_probabilities(self) -> bool:
        """Whether a logit has a probability, which scores need."""
        return any(node.probability > 0 for node in self.nodes)

    def scores(self) -> GraphScores:
        """Replacement and completeness; see the module's text.

        Raises:
            InterpretationError: if no logit has a probability.
        """
        if self.shared_ids:
            raise self._unclear("scores are of links", "do without them, or")
        weight = np.array([node.probability for node in self.nodes])
        if weight.sum() <= 0:
            raise InterpretationError(
                "no logit of the graph has a probability", fix="export the graph again with circuit-tracer"
            )
        sizes, into = np.abs(self.weights), np.zeros(len(self.nodes))
        np.add.at(into, self.targets, sizes)
        shares = sizes / np.maximum(into, _LEAST)[self.targets]
        layer = np.array([node.layer for node in self.nodes])
        influence = np.zeros(len(self.nodes))
        # From the last layer to the first, so that a node's influence is complete before it is passed on.
        for last in sorted(set(layer[self.targets]), reverse=True):
            at = layer[self.targets] == last
            passed = shares[at] * (influence + weight)[self.targets[at]]
            np.add.at(influence, self.sources[at], passed)
        kinds = np.array([node.kind for node in self.nodes])
        from_errors = np.zeros(len(self.nodes))
        errs = kinds[self.sources] == "error"
        np.add.at(from_errors, self.targets[errs], shares[errs])
        tokens, errors = influence[kinds == "token"].sum(), influence[kinds == "error"].sum()
        total = influence + weight
        return GraphScores(
            replacement=float(tokens / (tokens + errors)) if tokens + errors > 0 else None,
            completeness=float(((1 - from_errors) * total).sum() / total.sum()),
        )

    def _unclear(self, why: str, instead: str) -> InterpretationError:
        """The error where it matters which of two nodes an id means."""
        return InterpretationError(
            f"{why}, and {_some(self.shared_ids)} is the id of a feature and of an error",
            fix=f"{instead} export the graph with circuit-tracer after 0.5.0",
        )

    def _of(self, kept: NDArray[np.bool_]) -> FeatureGraph:
        """The graph of some nodes and the links between them."""
        places = np.cumsum(kept) - 1
        linked = kept[self.sources] & kept[self.targets]
        nodes = tuple(node for node, keep in zip(self.nodes, kept, strict=True) if keep)
        ids = {node.id for node in nodes}
        return replace(
            self,
            nodes=nodes,
            sources=places[self.sources[linked]],
            targets=places[self.targets[linked]],
            weights=self.weights[linked],
            pinned_ids=tuple(name for name in self.pinned_ids if name in ids),
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(brief(name) for name in names[:3]) + more


def _is_end(node: FeatureNode) -> bool:
    return node.kind in ("token", "logit")
