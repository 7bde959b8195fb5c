"""Control A: a network of random features, whose residual is Gaussian to a linear reader.

h = σ(Wx), logit aᵀ(h − μ0). The interpretation reads the preactivations z = Wx and stands in for h:
x̂ = μ0 + μ1 z. Network and formulas: `expected.py`.
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

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Linear:
    """x̂ = μ0 + μ1 z of the preactivations z, which are its codes."""

    constant: float
    slope: float

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, codes: Tensor) -> Tensor:
        return self.constant + self.slope * codes


class Network(nn.Module):
    """Inputs [windows, positions, d] to logits (0, aᵀ(σ(Wx) − μ0))."""

    def __init__(self, weights: Tensor, activation: str, readout: Tensor, constant: float) -> None:
        super().__init__()
        features, dimension = weights.shape
        self.preactivation = nn.Linear(dimension, features, bias=False)
        self.features = ACTIVATIONS[activation]()
        self.readout = nn.Linear(features, 2)
        with torch.no_grad():
            self.preactivation.weight.copy_(weights)
            self.readout.weight.copy_(torch.stack([torch.zeros_like(readout), readout]))
            self.readout.bias.copy_(-constant * self.readout.weight.sum(1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.features(self.preactivation(x)))
        return logits


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """The network of `expected.draw`, and inputs N(0, I) with labels sign(βᵀx)."""
    chosen = expected.Parameters(seed=seed, **parameters)
    weights, teacher, readout = expected.draw(chosen)
    moments = expected.activation_moments(chosen.activation)

    def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        x = generator.standard_normal((count, chosen.dimension))
        return x, x @ teacher > 0

    module = Network(
        torch.from_numpy(weights), chosen.activation, torch.from_numpy(readout), moments.constant
    )
    linear = Linear(moments.constant, moments.linear)
    return Built(module, data.examples(seed, rows, evaluation_seed=evaluation_seed), {"linear": linear})
