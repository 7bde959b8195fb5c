"""The likelihood of targets under a model's outputs: −log p, KL between two outputs, right answers.

Which likelihood it is follows from the targets. Classes (integers) have logits z for outputs,
    loss = log Σ exp z − z_y,    KL(p ‖ q) = Σ p log p − Σ p z + log Σ exp z.
Numbers have the mean f of a normal distribution of variance 1,
    loss = (y − f)²/2 + log(2π)/2,    KL = (f − f′)²/2.
Σ p log p is computed from the clean logits by the very same operations, so that rounding cancels where the
two passes agree.

Source: protocol 1, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = ["Categorical", "Compared", "Likelihood", "Normal", "likelihood_of"]

Outputs = Float[Tensor, "rows outputs"]
Targets = Shaped[Tensor, " rows"]
Kept = tuple[Tensor, ...]
"""Parts of the clean pass's outputs that are kept: tensors of the same number of rows."""


class Compared(NamedTuple):
    """Row by row."""

    loss: Float[Tensor, " rows"]  # nats
    kl: Float[Tensor, " rows"]  # nats, from the clean outputs
    answers: Int[Tensor, " rows"] | None  # the most likely class

    def take(self, rows: Shaped[Tensor, " some"]) -> Compared:
        """Some rows, by their numbers or a mask."""
        answers = None if self.answers is None else self.answers[rows]
        return Compared(self.loss[rows], self.kl[rows], answers)

    def split(self, sizes: Sequence[int]) -> list[Compared]:
        """Parts of so many rows each."""
        rows = torch.split(torch.arange(len(self.loss), device=self.loss.device), list(sizes))
        return [self.take(part) for part in rows]

    @classmethod
    def joined(cls, parts: Sequence[Compared]) -> Compared:
        """The rows of several parts, one after another."""
        answers = [part.answers for part in parts if part.answers is not None]
        return cls(
            torch.cat([part.loss for part in parts]),
            torch.cat([part.kl for part in parts]),
            torch.cat(answers) if answers else None,
        )


class Categorical:
    """Logits of classes."""

    def keep(self, outputs: Outputs) -> Kept:
        """p [rows, classes] and Σ p log p [rows]."""
        return self._keep(outputs, torch.logsumexp(outputs, -1))

    def clean(self, outputs: Outputs, targets: Targets) -> tuple[Kept, Compared]:
        """`keep` of the clean outputs, and their own loss; KL is 0."""
        partition = torch.logsumexp(outputs, -1)
        loss = partition - outputs.gather(-1, targets[:, None])[:, 0]
        return self._keep(outputs, partition), Compared(loss, torch.zeros_like(loss), outputs.argmax(-1))

    def compare(self, kept: Kept, outputs: Outputs, targets: Targets) -> Compared:
        """Loss of `outputs`, and KL from the clean outputs to them."""
        probabilities, negentropy = kept
        partition = torch.logsumexp(outputs, -1)
        loss = partition - outputs.gather(-1, targets[:, None])[:, 0]
        kl = negentropy - torch.linalg.vecdot(probabilities, outputs) + partition
        return Compared(loss, kl, outputs.argmax(-1))

    def entropy(self, outputs: Outputs) -> Float[Tensor, " rows"] | None:
        """−Σ p log p, nats."""
        return -self.keep(outputs)[1]

    def _keep(self, outputs: Outputs, partition: Float[Tensor, " rows"]) -> Kept:
        p = (outputs - partition[:, None]).exp_()
        return p, torch.linalg.vecdot(p, outputs) - partition


class Normal:
    """The mean of a normal distribution of variance 1."""

    def keep(self, outputs: Outputs) -> Kept:
        """f [rows, 1]."""
        return (outputs,)

    def clean(self, outputs: Outputs, targets: Targets) -> tuple[Kept, Compared]:
        """`keep` of the clean outputs, and their own loss; KL is 0."""
        kept = self.keep(outputs)
        return kept, self.compare(kept, outputs, targets)

    def compare(self, kept: Kept, outputs: Outputs, targets: Targets) -> Compared:
        """Loss of `outputs`, and KL from the clean outputs to them."""
        loss = (targets - outputs[:, 0]).square() / 2 + math.log(2 * math.pi) / 2
        return Compared(loss, (outputs - kept[0])[:, 0].square() / 2, None)

    def entropy(self, outputs: Outputs) -> Float[Tensor, " rows"] | None:
        """Return None: the entropy is the same for all outputs."""
        return None


Likelihood = Categorical | Normal
"""A way to read outputs."""


def likelihood_of(targets: Tensor) -> Likelihood:
    """The likelihood of classes where targets are integers, and of numbers where they are not."""
    return Normal() if targets.is_floating_point() else Categorical()
