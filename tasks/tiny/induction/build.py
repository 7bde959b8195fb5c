"""Task: an attention-only transformer of two layers that has learned induction.

Source: Olsson et al., "In-context Learning and Induction Heads", 2022; Elhage et al., "A Mathematical
Framework for Transformer Circuits", 2021.

Steps:
1. A window holds `WINDOW` tokens: a prefix, a segment of n tokens and the same segment again; n is drawn
   from 24 to 32 in each window, so that no fixed distance leads back to the first occurrence. The tokens of
   prefix and segment are distinct.
2. The model sees all tokens but the last and predicts the next one. Only predictions inside the second
   occurrence are scored: the token now at hand has occurred exactly once before, and what followed it then
   follows now.
3. Two layers of attention without biases, layer norm or MLP; learned positions. The sites are the outputs z
   of the heads of a layer, side by side, before the output matrix: `heads_0`, `heads_1`. Coordinates 16·h
   to 16·h + 15 belong to head h.

Splits are drawn from the task's seed; training drew from another stream (`train.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from remainder.build import Built, Examples

__all__ = ["Attention", "Induction", "build", "scored", "sequences"]

VOCABULARY, WINDOW, SHORTEST, LONGEST = 64, 64, 24, 32
WIDTH, HEADS = 64, 4


class Attention(nn.Module):
    """Causal attention, split so that the outputs of its heads can be a site."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def pattern(self, x: Float[Tensor, "windows pos d"]) -> Float[Tensor, "windows heads pos pos"]:
        """Attention of each head from position (third axis) to position (last axis)."""
        query, key = self.split(self.query(x)), self.split(self.key(x))
        scores = query @ key.transpose(-1, -2) / self.size**0.5
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(-1)

    def mixed(self, x: Float[Tensor, "windows pos d"]) -> Float[Tensor, "windows pos d"]:
        """Outputs z of the heads, side by side: what `output` maps back to the residual stream."""
        return (self.pattern(x) @ self.split(self.value(x))).transpose(1, 2).flatten(2)

    def split(self, x: Float[Tensor, "windows pos d"]) -> Float[Tensor, "windows heads pos size"]:
        """The part of each head."""
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)


class Induction(nn.Module):
    """Tokens [windows, positions] to logits [windows, positions, vocabulary]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(WINDOW - 1, WIDTH)
        self.layer_0, self.layer_1 = Attention(WIDTH, HEADS), Attention(WIDTH, HEADS)
        self.heads_0, self.heads_1 = nn.Identity(), nn.Identity()
        self.unembedding = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Int[Tensor, "windows pos"]) -> Float[Tensor, "windows pos vocabulary"]:
        """Logits of the next token."""
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        x = x + self.layer_0.output(self.heads_0(self.layer_0.mixed(x)))
        x = x + self.layer_1.output(self.heads_1(self.layer_1.mixed(x)))
        return self.unembedding(x)


def sequences(count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Windows of tokens [count, WINDOW], and the length of the segment of each [count] (step 1)."""
    lengths = rng.integers(SHORTEST, LONGEST + 1, count)
    distinct = rng.permuted(np.tile(np.arange(VOCABULARY), (count, 1)), axis=1)
    places = np.arange(WINDOW)
    # A place in the second occurrence takes the token of the first, one length earlier.
    again = places[None] >= WINDOW - lengths[:, None]
    tokens = np.take_along_axis(distinct, places[None] - np.where(again, lengths[:, None], 0), axis=1)
    return tokens, lengths


def scored(lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Positions [windows, WINDOW − 1] inside the second occurrence, less its last token (step 2)."""
    return np.arange(WINDOW - 1)[None] >= WINDOW - lengths[:, None]


def _examples(count: int, split: str, rng: np.random.Generator) -> Examples:
    tokens, lengths = sequences(count, rng)
    return Examples(
        inputs=tokens[:, :-1],
        targets=tokens[:, 1:],
        documents=tuple(f"{split}-{i}" for i in range(count)),
        scored=scored(lengths),
    )


def build(seed: int, folder: Path, windows: int = 256) -> Built:
    """The trained model, with `windows` windows for each split; every window is a document of its own."""
    module = Induction()
    module.load_state_dict(
        {name: value.float() for name, value in load_file(folder / "weights.safetensors").items()}
    )
    streams = np.random.default_rng(seed).spawn(3)
    return Built(
        module=module.eval(),
        examples={
            "fit": _examples(windows, "fit", streams[0]),
            "calibration": _examples(windows, "calibration", streams[1]),
            "evaluation": _examples(windows, "evaluation", streams[2]),
        },
    )
