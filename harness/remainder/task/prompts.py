"""Prompts that ask for a behaviour, each with a counterfactual that asks for another answer.

The prompts of one template have one length and are aligned position by position, so that activations can be
averaged, and exchanged, at every position of the template. A document is a prompt.

At every scored position there is a set of correct tokens and a set of wrong tokens (all others, if none are
named). The *answer* is log Σ_correct e^logit − log Σ_wrong e^logit; for one token each it is their logit
difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remainder.errors import TaskError

__all__ = ["PADDING", "Prompts", "first"]

PADDING = -1
"""Padding of sets of tokens to the size of the largest."""


@dataclass(frozen=True)
class Prompts:
    """Prompts of one template.

    Raises:
        TaskError: if shapes disagree, nothing is scored, or a position has no correct token.
    """

    template: str
    tokens: NDArray[np.int64]
    """[prompts, positions]"""
    counterfactual: NDArray[np.int64]
    """[prompts, positions]"""
    documents: tuple[str, ...]
    scored: NDArray[np.bool_]
    """[prompts, positions]: where the prediction counts; the same number in each prompt."""
    correct: NDArray[np.int64]
    """[prompts, scored, choices]: ids of correct tokens at each scored position, padded with -1."""
    wrong: NDArray[np.int64]
    """[prompts, scored, choices]: ids of wrong tokens; without choices, all that are not correct."""

    def __post_init__(self) -> None:
        count = len(self.tokens)
        if self.counterfactual.shape != self.tokens.shape:
            raise TaskError(
                f"template {self.template}: prompts are {self.tokens.shape}, their counterfactuals "
                f"{self.counterfactual.shape}",
                fix="a counterfactual has as many tokens as its prompt",
            )
        if self.scored.shape != self.tokens.shape or len(self.documents) != count:
            raise TaskError(f"template {self.template}: shapes of prompts disagree", fix="one entry a prompt")
        each = self.scored.sum(1)
        if count == 0 or each.min() == 0 or each.min() != each.max():
            raise TaskError(
                f"template {self.template}: {count} prompts, which have "
                f"{sorted(set(each.tolist()))} scored positions",
                fix="score equally many positions, and at least one, of each prompt",
            )
        if self.correct.shape[:2] != (count, each[0]) or self.wrong.shape[:2] != (count, each[0]):
            raise TaskError(
                f"template {self.template}: answers do not fit what is scored", fix="one set a position"
            )
        if (self.correct == PADDING).all(-1).any():
            raise TaskError(f"template {self.template}: a scored position has no right token", fix="name one")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def has_counterfactuals(self) -> bool:
        """Whether any counterfactual is another prompt."""
        return not np.array_equal(self.tokens, self.counterfactual)

    def take(self, rows: NDArray[np.int64] | slice) -> Prompts:
        """Some of the prompts."""
        which = range(len(self))[rows] if isinstance(rows, slice) else rows
        # Torch refuses arrays with negative strides, such as a reversed view.
        names = ("tokens", "counterfactual", "scored", "correct", "wrong")
        arrays: dict[str, Any] = {name: np.ascontiguousarray(getattr(self, name)[rows]) for name in names}
        return replace(self, documents=tuple(self.documents[int(i)] for i in which), **arrays)


def first(groups: tuple[Prompts, ...], count: int) -> tuple[Prompts, ...]:
    """The first `count` prompts, spread over the templates as evenly as their sizes allow."""
    sizes = np.zeros(len(groups), dtype=np.int64)
    while sizes.sum() < min(count, sum(len(group) for group in groups)):
        room = [place for place, group in enumerate(groups) if sizes[place] < len(group)]
        sizes[min(room, key=lambda place: (sizes[place], place))] += 1
    return tuple(group.take(slice(0, int(n))) for group, n in zip(groups, sizes, strict=True) if n)
