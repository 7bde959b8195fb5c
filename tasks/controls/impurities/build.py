"""Control D: discrete features of which k are kept, on a Gaussian background.

The site holds the m features b_j c_j and the background g, m + 1 coordinates; the model reads their sum t
and says P(y = 1) = sigmoid(a(t − τ)). An interpretation keeps k features as they are and puts 0 for
everything else. Only the sum of what a rung adds reaches the model, so that formulas for the sum hold:
`expected.py`.

Calibration: 65,536 independent rows would move the losses of `full` and `permuted` by up to 0.9 of the
standard error that 16,384 evaluation rows give (k = 0, KL; 0.3 at k = 8). Their rows are therefore a
stratified sample: each row has the right law, but together they are spread evenly over the states of the
features and the quantiles of g. What calibration adds is then below 0.1 of the evaluation's standard error
for every k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from remainder.build import Built, load_script

HERE = Path(__file__).parent
expected = load_script(HERE / "expected.py")
data = load_script(HERE.parent / "data.py")


@dataclass(frozen=True)
class Keep:
    """The k first features; or of each sample the k first of those that are active. c does not increase."""

    kept: int
    per_sample: bool
    width: int

    def encode(self, x: Tensor) -> Tensor:
        if not self.per_sample:
            return x[..., : self.kept]
        features = x[..., :-1]
        active = features != 0
        return torch.where(active & (active.cumsum(-1) <= self.kept), features, 0.0)

    def decode(self, codes: Tensor) -> Tensor:
        return pad(codes, (0, self.width - codes.shape[-1]))


class Network(nn.Module):
    """Features and background [windows, positions, m + 1] to logits (0, a(t − τ))."""

    def __init__(self, gain: float, threshold: float) -> None:
        super().__init__()
        self.sources = nn.Identity()
        self.gain, self.threshold = gain, threshold

    def forward(self, x: Tensor) -> Tensor:
        logit = self.gain * (self.sources(x).sum(-1) - self.threshold)
        return torch.stack([torch.zeros_like(logit), logit], -1)


def independent(
    generator: np.random.Generator, parameters: Any, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features b_j c_j [count, m] and standard normal background [count]."""
    c = expected.coefficients(parameters)
    features = np.where(generator.random((count, len(c))) < parameters.probability, c, 0.0)
    return features, generator.standard_normal(count)


def stratified(
    generator: np.random.Generator, parameters: Any, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same, spread evenly over all states and quantiles.

    1. Points that fill the unit square evenly: a lattice at a random place, so that each point is uniform.
    2. One coordinate says which of the 2^m states, in the order of binary numbers with the largest feature
       first, so that neighbours are alike; the other says which quantile of the background.
    """
    c, p = expected.coefficients(parameters), parameters.probability
    number = generator.permutation(count)
    place = generator.random(2)
    state_at = (number / count + place[0]) % 1
    quantile = (number * (np.sqrt(5) - 1) / 2 + place[1]) % 1
    active = (np.arange(2 ** len(c))[:, None] >> np.arange(len(c))[::-1] & 1).astype(bool)
    chances = np.where(active, p, 1 - p).prod(1)
    state = np.searchsorted(np.cumsum(chances) / chances.sum(), state_at, side="right")
    normal = torch.special.ndtri(torch.from_numpy(np.clip(quantile, 1e-12, 1 - 1e-12))).numpy()
    return np.where(active[state], c, 0.0), normal


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Features b_j c_j, background g, and labels drawn from the model, or from all features without g."""
    chosen = expected.Parameters(**parameters)
    c = expected.coefficients(chosen)
    threshold = chosen.probability * float(c.sum()) + chosen.offset

    def rows_of(sources: Callable[..., Any]) -> Callable[..., Any]:
        def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
            features, normal = sources(generator, chosen, count)
            background = np.sqrt(chosen.background) * normal
            seen = features.sum(1) + (background if chosen.labels == "model" else 0.0)
            positive = generator.random(count) < 1 / (1 + np.exp(-chosen.gain * (seen - threshold)))
            return np.column_stack([features, background]), positive

        return rows

    interpretations = {
        f"keep-{kept}": Keep(kept, chosen.selection == "per-sample", len(c) + 1)
        for kept in expected.kept_counts(chosen)
    }
    examples = data.examples(seed, rows_of(independent), rows_of(stratified), evaluation_seed=evaluation_seed)
    return Built(Network(chosen.gain, threshold), examples, interpretations)
