"""Two sites of a linear network on Gaussian data, with a path past the first.

Inputs are (z, n); x₁ = m + F z is the output of `first`, x₂ = W x₁ + G z + H n that of `second`. Network and
formulas: `expected.py`. Calibration inputs are standardised in blocks, so that moments of what no noise has
passed are exact.
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

BLOCK = 128 * data.POSITIONS
"""Calibration rows that are standardised together."""


@dataclass(frozen=True)
class Subspace:
    """x̂ = V Vᵀ x for orthonormal columns V [d, k]."""

    basis: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return x @ self.basis

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.basis.T


class Network(nn.Module):
    """Inputs [windows, positions, 2d] to logits (0, aᵀx₂ + c)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        d = len(network.mean)
        self.into, self.beside = nn.Linear(d, d), nn.Linear(2 * d, d, bias=False)
        self.along, self.readout = nn.Linear(d, d, bias=False), nn.Linear(d, 2)
        self.first, self.second = nn.Identity(), nn.Identity()
        nothing = np.zeros(d)
        with torch.no_grad():
            for place, value in (
                (self.into.weight, network.first),
                (self.into.bias, network.mean),
                (self.beside.weight, np.hstack([network.past, network.own])),
                (self.along.weight, network.second),
                (self.readout.weight, np.stack([nothing, network.readout])),
                (self.readout.bias, np.array([0.0, network.offset])),
            ):
                place.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def forward(self, inputs: Tensor) -> Tensor:
        z = inputs[..., : inputs.shape[-1] // 2]
        x = self.first(self.into(z))
        x = self.second(self.along(x) + self.beside(inputs))
        logits: Tensor = self.readout(x)
        return logits


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """The network of `expected.draw`, and labels drawn from it; the task's own site matters to no number."""
    chosen = expected.Parameters(seed=seed, **parameters)
    network = expected.draw(chosen)
    width = 2 * chosen.dimension

    def independent(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        return rows(generator, generator.standard_normal((count, width)))

    def standardised(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        inputs = generator.standard_normal((count, width))
        for start in range(0, count, BLOCK):
            block = inputs[start : start + BLOCK]
            block -= block.mean(0)
            block[:] = np.linalg.solve(np.linalg.cholesky(block.T @ block / len(block)), block.T).T
        return rows(generator, inputs)

    def rows(generator: np.random.Generator, inputs: Any) -> tuple[Any, Any]:
        z, n = inputs[:, : chosen.dimension], inputs[:, chosen.dimension :]
        first = network.mean + z @ network.first.T
        second = first @ network.second.T + z @ network.past.T + n @ network.own.T
        positive = 1 / (1 + np.exp(-(second @ network.readout + network.offset)))
        return inputs, generator.random(len(inputs)) < positive

    basis = torch.from_numpy(network.bases[chosen.site - 1]).float()
    examples = data.examples(seed, independent, standardised, evaluation_seed=evaluation_seed)
    return Built(Network(network), examples, {"subspace": Subspace(basis)})
