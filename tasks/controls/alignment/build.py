"""Control B: a label that sees the residual, so that Gaussian equivalence breaks.

h = max(Wx, 0), prediction aᵀ(h − μ0) of a number. The interpretation reads the preactivations z = Wx and
stands in for h: x̂ = μ0 + z/2. Network and formulas: `expected.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from remainder.build import Built, load_script

HERE = Path(__file__).parent
expected = load_script(HERE / "expected.py")
data = load_script(HERE.parent / "data.py")

CONSTANT = float(1 / np.sqrt(2 * np.pi))  # E max(z, 0)


@dataclass(frozen=True)
class Linear:
    """x̂ = μ0 + z/2 of the preactivations z, which are its codes."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, codes: Tensor) -> Tensor:
        return CONSTANT + codes / 2


class Network(nn.Module):
    """Inputs [windows, positions, d] to predictions [windows, positions, 1]."""

    def __init__(self, weights: Tensor, readout: Tensor) -> None:
        super().__init__()
        features, dimension = weights.shape
        self.preactivation = nn.Linear(dimension, features, bias=False)
        self.features = nn.ReLU()
        self.readout = nn.Linear(features, 1)
        with torch.no_grad():
            self.preactivation.weight.copy_(weights)
            self.readout.weight.copy_(readout)
            self.readout.bias.copy_(-CONSTANT * readout.sum())

    def forward(self, x: Tensor) -> Tensor:
        prediction: Tensor = self.readout(self.features(self.preactivation(x)))
        return prediction


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """The network of `expected.draw`, and inputs N(0, I) with labels λz + κ(z² − 1)/√2 + noise, z = βᵀx."""
    chosen = expected.Parameters(seed=seed, **parameters)
    weights, teacher, readout = expected.draw(chosen)

    def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        x = generator.standard_normal((count, chosen.dimension))
        z = x @ teacher
        label = chosen.linear * z + chosen.quadratic * (z**2 - 1) / np.sqrt(2)
        return x, label + np.sqrt(chosen.label_noise) * generator.standard_normal(count)

    module = Network(torch.from_numpy(weights), torch.from_numpy(readout))
    return Built(module, data.examples(seed, rows, evaluation_seed=evaluation_seed), {"linear": Linear()})
