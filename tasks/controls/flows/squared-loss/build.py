"""A linear network that answers with a number, and its principal axes; formulas: `expected.py`."""

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
data = load_script(HERE.parent.parent / "data.py")


@dataclass(frozen=True)
class Axes:
    """x̂ = V Vᵀ x for orthonormal columns V [d, k]."""

    basis: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return x @ self.basis

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.basis.T


class Network(nn.Module):
    """Activations x [windows, positions, d] to the number aᵀx."""

    def __init__(self, readout: Tensor) -> None:
        super().__init__()
        self.site = nn.Identity()
        self.readout = nn.Linear(len(readout), 1, bias=False)
        with torch.no_grad():
            self.readout.weight.copy_(readout[None])

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.readout(self.site(x))
        return answer


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Activations of the covariance of `expected.draw`, targets that are answers with noise."""
    chosen = expected.Parameters(seed=seed, **parameters)
    covariance, axes, readout = expected.draw(chosen)
    root = np.linalg.cholesky(covariance)

    def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        x = generator.standard_normal((count, chosen.dimension)) @ root.T
        return x, x @ readout + np.sqrt(chosen.label_noise) * generator.standard_normal(count)

    return Built(
        Network(torch.from_numpy(readout).float()),
        data.examples(seed, rows, evaluation_seed=evaluation_seed),
        {"axes": Axes(torch.from_numpy(axes).float())},
    )
