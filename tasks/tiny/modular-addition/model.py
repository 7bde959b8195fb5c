"""A one-layer transformer that adds modulo 113, and how its pairs are divided into documents.

Model: Nanda, Chan, Lieberum, Smith & Steinhardt (2023), "Progress measures for grokking via mechanistic
interpretability": tokens a, b, '=', width 128, four heads of 32, an MLP of 512 ReLU, no layer norm, untied
embedding and unembedding, read at '=' only.

1. Every token gets its embedding plus that of its position. Without a layer norm, queries, keys and values
   depend on nothing but token and position, so they are tables that pairs look up.
2. '=' attends to a, b and itself: one softmax over three scores for each head.
3. The MLP reads what attention wrote and '=' itself; `mlp_post` is its activation after the ReLU, [..., 512].
4. Logits are the unembedding of the residual stream at '='.

Documents: document a holds the 113 pairs (a, a + δ) and (a + δ, a), δ = 0 … 56, all modulo 113. So every
ordered pair lies in exactly one document, and so do the two orders of it, which have one answer: were a
document all b of one a, every two documents, and every two splits, would share one.

Training pairs: of 60 % of the unordered pairs, drawn from all documents, one order each. A pair is held out
if neither order was trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["MODULUS", "ModularAddition", "held_out", "pairs_of", "splits", "training_pairs"]

MODULUS = 113
D_MODEL, HEADS, D_HEAD, D_MLP = 128, 4, 32, 512
COUNTS = {"evaluation": 40, "calibration": 35, "fit": 38}
"""Documents of each split."""
TRAINED = 0.6
"""Share of the unordered pairs that the model is trained on."""

# The weights belong to one choice of training pairs, so no seed of the caller may move it.
_SEED = 1


class ModularAddition(nn.Module):
    """Maps int64 pairs [windows, positions, 2] to logits [windows, positions, 113] at '='."""

    def __init__(self) -> None:
        super().__init__()

        def normal(*shape: int, scale: float = D_MODEL**-0.5) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * scale)

        self.W_E = normal(MODULUS + 1, D_MODEL)  # the last row is '='
        self.W_pos = normal(3, D_MODEL)
        self.W_Q = normal(HEADS, D_MODEL, D_HEAD)
        self.W_K = normal(HEADS, D_MODEL, D_HEAD)
        self.W_V = normal(HEADS, D_MODEL, D_HEAD)
        self.W_O = normal(HEADS, D_HEAD, D_MODEL)
        self.W_in = normal(D_MODEL, D_MLP)
        self.b_in = nn.Parameter(torch.zeros(D_MLP))
        self.W_out = normal(D_MLP, D_MODEL)
        self.b_out = nn.Parameter(torch.zeros(D_MODEL))
        self.W_U = normal(D_MODEL, MODULUS, scale=MODULUS**-0.5)
        self.mlp_post = nn.Identity()

    def forward(self, pairs: Tensor) -> Tensor:
        first, second = pairs[..., 0], pairs[..., 1]
        # Residual stream before attention: of a and of b for every token, and of '='.
        tokens = self.W_E[:MODULUS] + self.W_pos[:2, None]  # [2, 113, d_model]
        equals = self.W_E[MODULUS] + self.W_pos[2]  # [d_model]

        query = torch.einsum("d,hde->he", equals, self.W_Q) / D_HEAD**0.5
        reader = torch.einsum("he,hde->hd", query, self.W_K)
        scores = torch.einsum("pnd,hd->pnh", tokens, reader)  # [2, 113, heads]
        written = torch.einsum("...d,hde,hef->...hf", tokens, self.W_V, self.W_O)  # [2, 113, heads, d_model]
        own_score = torch.einsum("d,hd->h", equals, reader).expand(*first.shape, HEADS)
        own = torch.einsum("d,hde,hef->hf", equals, self.W_V, self.W_O)

        pattern = torch.stack([scores[0][first], scores[1][second], own_score]).softmax(0)  # [3, ..., heads]
        attention = (
            torch.einsum("...h,...hf->...f", pattern[0], written[0][first])
            + torch.einsum("...h,...hf->...f", pattern[1], written[1][second])
            + torch.einsum("...h,hf->...f", pattern[2], own)
        )
        middle = equals + attention
        activation = self.mlp_post(torch.relu(middle @ self.W_in + self.b_in))
        return (middle + activation @ self.W_out + self.b_out) @ self.W_U


def pairs_of(documents: NDArray[Any]) -> NDArray[np.int64]:
    """The pairs of documents, [documents, 113, 2]: (a, a), then (a, a + δ) and (a + δ, a) for δ = 1 … 56."""
    a = np.asarray(documents, dtype=np.int64)[:, None]
    b = (a + np.arange(1, MODULUS // 2 + 1)) % MODULUS
    forward = np.stack(np.broadcast_arrays(a, b), -1)
    both = np.stack([forward, forward[..., ::-1]], 2).reshape(len(a), MODULUS - 1, 2)
    return np.concatenate([np.stack([a, a], -1), both], 1)


def splits() -> dict[str, NDArray[np.int64]]:
    """The documents (values of a) of each split, in a seeded order."""
    order = np.random.default_rng(_SEED).permutation(MODULUS)
    ends = np.cumsum(list(COUNTS.values()))[:-1]
    return dict(zip(COUNTS, np.split(order, ends), strict=True))


def training_pairs() -> NDArray[np.int64]:
    """The pairs (a, b) that the model is trained on, [pairs, 2]: never both orders of one."""
    generator = np.random.default_rng(_SEED + 1000)
    one_order = np.r_[0, 1:MODULUS:2]
    pairs = pairs_of(np.arange(MODULUS))[:, one_order].reshape(-1, 2)
    chosen = generator.permutation(len(pairs))[: int(TRAINED * len(pairs))]
    turned = (generator.random(len(pairs)) < 0.5)[chosen]
    return np.where(turned[:, None], pairs[chosen, ::-1], pairs[chosen])


def held_out(pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the pairs [..., 2] the model was trained on in neither order, [...]."""
    trained = np.zeros((MODULUS, MODULUS), dtype=np.bool_)
    for order in (training_pairs(), training_pairs()[:, ::-1]):
        trained[order[:, 0], order[:, 1]] = True
    return ~trained[pairs[..., 0], pairs[..., 1]]
