"""Isotropic Gaussian activations, read by a logistic model through their sum; formulas: `expected.py`.

Calibration rows are those of `even.py`.
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
from torch import Tensor, nn

from remainder.build import Built, load_script

HERE = Path(__file__).parent
expected = load_script(HERE / "expected.py")
data = load_script(HERE.parent / "data.py")
even = load_script(HERE.parent / "even.py")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Untrained:
    """Random directions, as an SAE has them before it is trained; the largest codes are on."""

    W_dec: Tensor
    active: int

    def encode(self, x: Tensor) -> Tensor:
        codes = torch.relu(x @ self.W_dec.T)
        least = codes.topk(self.active, dim=-1).values[..., -1:]
        return torch.where(codes >= least, codes, torch.zeros_like(codes))

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec


class Network(nn.Module):
    """Activations [windows, positions, K] to logits (0, a t)."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.site = nn.Identity()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        logit = self.gain * self.site(x).sum(-1)
        return torch.stack([torch.zeros_like(logit), logit], -1)


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Independent normal coordinates, labels drawn from the model, and a dictionary of random directions."""
    chosen = expected.Parameters(**parameters)
    size = np.sqrt(chosen.variance / chosen.dimensions)

    def rows_of(uniform: Callable[[np.random.Generator, int, int], Array]) -> Callable[..., Any]:
        def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
            x = size * ndtri(uniform(generator, count, chosen.dimensions))
            return x, generator.random(count) < 1 / (1 + np.exp(-chosen.gain * x.sum(1)))

        return rows

    def independent(generator: np.random.Generator, count: int, dimensions: int) -> Array:
        return np.clip(generator.random((count, dimensions)), 1e-12, 1 - 1e-12)

    examples = data.examples(
        seed, rows_of(independent), rows_of(even.uniform), evaluation_seed=evaluation_seed
    )
    directions = np.random.default_rng([seed, 3]).standard_normal((4 * chosen.dimensions, chosen.dimensions))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    untrained = Untrained(torch.from_numpy(directions).float(), expected.ACTIVE)
    return Built(Network(chosen.gain), examples, {"untrained": untrained})
