"""Control H: a deep linear network on Gaussian data, where the Gaussian residual is exact.

x = m + F z, F the product of random layers, z ~ N(0, I); x̂ = P x with a projection on a random subspace;
logit aᵀx. Labels are drawn from sigmoid(bᵀx), b ≠ a. Network and formulas: `expected.py`.

Calibration: 65,536 independent rows would move the losses of `full` and `permuted` by up to 0.8 of the
standard error that 16,384 evaluation rows give. Their z are therefore standardised, block by block, to mean 0
and covariance I exactly. What is left of calibration is below 0.3 of that standard error even with one block,
which the quick tier takes: a test of Gaussianity takes a time that grows with the product of calibration and
evaluation rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
    """Inputs [windows, positions, d] through linear layers to logits (0, aᵀx)."""

    def __init__(self, layers: list[Tensor], mean: Tensor, readout: Tensor) -> None:
        super().__init__()
        dimension = len(mean)
        self.layers = nn.Sequential(*(nn.Linear(dimension, dimension) for _ in layers))
        self.readout = nn.Linear(dimension, 2, bias=False)
        with torch.no_grad():
            for linear, weights in zip(self.layers, layers, strict=True):
                linear.weight.copy_(weights)
                linear.bias.zero_()
            self.layers[-1].bias.copy_(mean)
            self.readout.weight.copy_(torch.stack([torch.zeros_like(readout), readout]))

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.layers(z))
        return logits


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """The network of `expected.draw`, and inputs N(0, I) with labels drawn from sigmoid(bᵀx)."""
    chosen = expected.Parameters(seed=seed, **parameters)
    network, layers = expected.draw(chosen), expected.draw_layers(chosen, np.random.default_rng(seed))

    def independent(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        return rows(generator, generator.standard_normal((count, chosen.dimension)))

    def standardised(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        z = generator.standard_normal((count, chosen.dimension))
        for block in np.split(z, count // BLOCK):  # views
            block -= block.mean(0)
            block[:] = np.linalg.solve(np.linalg.cholesky(block.T @ block / BLOCK), block.T).T
        return rows(generator, z)

    def rows(generator: np.random.Generator, z: NDArray[np.float64]) -> tuple[Any, Any]:
        x = z
        for layer in layers:
            x = x @ layer.T
        positive = 1 / (1 + np.exp(-(network.mean + x) @ network.teacher))
        return z, generator.random(len(z)) < positive

    # The projection's eigenvectors of eigenvalue 1 span what is kept.
    basis = np.linalg.eigh(network.projection)[1][:, -chosen.kept :]
    module = Network(
        [torch.from_numpy(layer) for layer in layers],
        torch.from_numpy(network.mean),
        torch.from_numpy(network.readout),
    )
    subspace = Subspace(torch.from_numpy(basis).float())
    return Built(
        module,
        data.examples(seed, independent, standardised, evaluation_seed=evaluation_seed),
        {"subspace": subspace},
    )
