"""Shell chains and quadratic chaos: a sum of independent parts, of which the first k are kept.

The site holds the parts u_i and the background g; the model reads their sum t and says
P(y = 1) = sigmoid(a t). An interpretation keeps the first k parts and puts 0 for everything else. Only the
sum of what a rung adds reaches the model, so that formulas for the sum hold: `expected.py`. Calibration rows
are those of `even.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn.functional import pad

from remainder.build import Built, load_script

HERE = Path(__file__).parent
expected = load_script(HERE / "expected.py")
data = load_script(HERE.parent / "data.py")
even = load_script(HERE.parent / "even.py")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Keep:
    """The k first coordinates."""

    kept: int
    width: int

    def encode(self, x: Tensor) -> Tensor:
        return x[..., : self.kept]

    def decode(self, codes: Tensor) -> Tensor:
        return pad(codes, (0, self.width - self.kept))


class Network(nn.Module):
    """Parts and background [windows, positions, parts + 1] to logits (0, a t)."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.parts = nn.Identity()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        logit = self.gain * self.parts(x).sum(-1)
        return torch.stack([torch.zeros_like(logit), logit], -1)


def parts(parameters: Any, uniform: Array) -> Array:
    """Parts and background `[rows, parts + 1]` of uniform values, by their quantile functions."""
    found = np.empty_like(uniform)
    for index, variance in enumerate(expected.part_variances(parameters)):
        if parameters.law == "chaos":
            found[:, index] = np.sqrt(variance / 2) * (ndtri(uniform[:, index]) ** 2 - 1)
        else:
            count = parameters.branching**index
            ups = np.searchsorted(binom.cdf(np.arange(count), count, 0.5), uniform[:, index])
            found[:, index] = np.sqrt(variance / count) * (2 * ups - count)
    found[:, -1] = np.sqrt(parameters.background) * ndtri(uniform[:, -1])
    return found


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Parts, background, and labels drawn from the model."""
    chosen = expected.Parameters(**parameters)
    width = chosen.parts + 1

    def rows_of(uniform: Callable[[np.random.Generator, int, int], Array]) -> Callable[..., Any]:
        def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
            x = parts(chosen, uniform(generator, count, width))
            return x, generator.random(count) < 1 / (1 + np.exp(-chosen.gain * x.sum(1)))

        return rows

    def independent(generator: np.random.Generator, count: int, dimensions: int) -> Array:
        return np.clip(generator.random((count, dimensions)), 1e-12, 1 - 1e-12)

    examples = data.examples(
        seed, rows_of(independent), rows_of(even.uniform), evaluation_seed=evaluation_seed
    )
    kept = {f"keep-{count}": Keep(count, width) for count in expected.KEPT[chosen.law]}
    return Built(Network(chosen.gain), examples, kept)
