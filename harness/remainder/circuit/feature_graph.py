"""The attribution graph of one prompt, as a circuit of features: nodes, links, and which nodes to keep.

1. Nodes are features of transcoders, their errors, tokens and logits, each at a position; a link says how
   much its source adds directly to its target.
2. `FeatureGraph.pinned` and `.pruned` choose nodes: those that a person pinned, or those that account for a
   share of all influence.
3. `FeatureGraph.features` and `.errors` say what is kept where, for a run with everything else replaced.
4. `FeatureGraph.scores` are circuit-tracer's own, of the links alone, without a pass of the model. With A the
   sizes of the links, each target's divided by their sum, and w the logits' probabilities:
   influence I = Σₙ w Aⁿ; replacement = I_tokens / (I_tokens + I_errors);
   completeness = Σᵢ (1 − Σ_errors Aᵢ)(Iᵢ + wᵢ) / Σᵢ (Iᵢ + wᵢ).
   These are of the graph in the file, which circuit-tracer has mostly pruned; its own are of the whole one.

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
"""What the links of a target are divided by, at least; circuit-tracer's."""


class FeatureNode(NamedTuple):
    """A node of the graph."""

    id: str
    """As links name it."""
    kind: Kind
    layer: int
    """Block whose MLP's output it is part of; -1 of tokens, the number of blocks of logits."""
    number: int
    """Of the feature among its transcoder's; the id of a token or logit in the vocabulary; -1 of errors, and
    of logits that do not tell it."""
    position: int
    activation: float | None
    influence: float | None
    """Share of all influence that this node and all of larger influence account for: small is important."""
    probability: float
    """Of a logit; 0 of others."""


class GraphScores(NamedTuple):
    """How much of what reaches the logits does so through features."""

    replacement: float | None
    """Influence of tokens, over that of tokens and errors; None: neither has any."""
    completeness: float
    """Share of what nodes are given that is not from errors, by the nodes' influence."""


@dataclass(frozen=True)
class FeatureGraph:
    """Features at positions of one prompt, and what links them."""

    model: str
    """As the file names it, with its transcoders (metadata.scan)."""
    prompt: str
    tokens: tuple[str, ...]
    """One a position."""
    nodes: tuple[FeatureNode, ...]
    sources: NDArray[np.int64]
    """[links]: places in `nodes`."""
    targets: NDArray[np.int64]
    """[links]"""
    weights: NDArray[np.float64]
    """[links]: how much of the target's value is from the source, with its sign."""
    pinned_ids: tuple[str, ...] = ()
    """Nodes that a person pinned in the frontend."""
    gone_ids: tuple[str, ...] = ()
    """Pinned ids that are no node's, as of nodes that were pruned after they had been pinned."""
    unknown: tuple[str, ...] = ()
    """A sentence for each field that is not known, and was not looked at."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file has and is not used."""
        if not self.gone_ids:
            return self.unknown
        return (
            f"qParams.pinnedIds names {_some(self.gone_ids)}, no node of the graph: left out",
            *self.unknown,
        )

    def features(self) -> dict[int, dict[int, tuple[int, ...]]]:
        """Block → position → ids of its features, ascending."""
        found: dict[int, dict[int, tuple[int, ...]]] = {}
        for node in sorted(self.nodes, key=lambda node: (node.layer, node.position, node.number)):
            if node.kind == "feature":
                at = found.setdefault(node.layer, {})
                at[node.position] = (*at.get(node.position, ()), node.number)
        return found

    def errors(self) -> dict[int, tuple[int, ...]]:
        """Block → positions of its error nodes, ascending."""
        found: dict[int, tuple[int, ...]] = {}
        for node in sorted(self.nodes, key=lambda node: (node.layer, node.position)):
            if node.kind == "error":
                found[node.layer] = (*found.get(node.layer, ()), node.position)
        return found

    def pinned(self) -> FeatureGraph:
        """Only what is pinned, tokens and logits, and the links between these.

        Raises:
            InterpretationError: nothing is pinned, or a node that is gone.
        """
        if self.gone_ids:
            raise InterpretationError(
                f"qParams.pinnedIds names {_some(self.gone_ids)}, no node of the graph, and its pinned nodes "
                "are asked for",
                fix="pin nodes of this graph, or export it with the nodes that are pinned",
            )
        if not self.pinned_ids:
            raise InterpretationError(
                "the graph pins no node (qParams.pinnedIds is empty)",
                fix="pin nodes in the frontend, or choose them by their share of influence",
            )
        wanted = set(self.pinned_ids)
        return self._of(np.array([node.id in wanted or _is_end(node) for node in self.nodes]))

    def pruned(self, share: float) -> FeatureGraph:
        """Nodes of largest influence that together reach `share` of it, tokens and logits.

        Of these, features and errors without a link to another one go, and features without a link into them.

        Raises:
            InterpretationError: `share` is none, or a node has no influence.
        """
        if not 0 <= share <= 1:
            raise InterpretationError(f"{share} is no share of influence", fix="choose one from 0 to 1")
        reach = []
        for node in self.nodes:
            if node.influence is None and node.kind != "logit":
                raise InterpretationError(
                    f"node {node.id} has no influence", fix="export the graph again with circuit-tracer"
                )
            reach.append(math.inf if node.influence is None else node.influence)
        reached = np.array(reach)
        last = min((value for value in reach if value >= share), default=math.inf)  # the one that reaches it
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
        """Whether a logit has one, which scores need."""
        return any(node.probability > 0 for node in self.nodes)

    def scores(self) -> GraphScores:
        """Replacement and completeness; see the module.

        Raises:
            InterpretationError: no logit has a probability.
        """
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
        # From the last layer to the first: what a node is credited with is complete before it is passed on.
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

    def _of(self, kept: NDArray[np.bool_]) -> FeatureGraph:
        """Some of the nodes, and the links between them."""
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
