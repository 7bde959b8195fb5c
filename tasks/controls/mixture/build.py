"""A mixture of K classes, of which an interpretation tells k apart from the rest.

The site holds x; codes are the indicators of the first k classes, by the nearest mean. Network and formulas:
`expected.py`. Calibration rows are those of `even.py`.
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
class Indicators:
    """Whether the nearest of the means [K, d] is the c-th, for c < k."""

    means: Tensor
    kept: int

    def encode(self, x: Tensor) -> Tensor:
        # The nearest mean has the largest m·x − ‖m‖²/2.
        nearest = (x @ self.means.T - self.means.square().sum(1) / 2).argmax(-1)
        return (nearest[..., None] == torch.arange(self.kept, device=x.device)).to(x.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        return self.means[-1] + codes @ (self.means[: self.kept] - self.means[-1])


class Network(nn.Module):
    """x [windows, positions, d] to logits (0, wᵀ(x − x̄))."""

    def __init__(self, readout: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.activation = nn.Identity()
        self.readout = nn.Linear(len(mean), 2)
        with torch.no_grad():
            self.readout.weight.copy_(torch.stack([torch.zeros_like(readout), readout]))
            self.readout.bias.copy_(torch.stack([torch.zeros(()), -(readout @ mean)]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.activation(x))
        return logits


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """The mixture of `expected.draw`, and labels drawn from the model."""
    chosen = expected.Parameters(seed=seed, **parameters)
    network = expected.draw(chosen)
    centre = network.means.mean(0)

    def rows_of(uniform: Callable[[np.random.Generator, int, int], Array]) -> Callable[..., Any]:
        def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
            places = uniform(generator, count, chosen.dimension + 1)
            classes = (places[:, 0] * chosen.classes).astype(int)
            x = network.means[classes] + ndtri(places[:, 1:]) @ network.factor.T
            positive = 1 / (1 + np.exp(-(x - centre) @ network.readout))
            return x, generator.random(count) < positive

        return rows

    def independent(generator: np.random.Generator, count: int, dimensions: int) -> Array:
        return np.clip(generator.random((count, dimensions)), 1e-12, 1 - 1e-12)

    examples = data.examples(
        seed, rows_of(independent), rows_of(even.uniform), evaluation_seed=evaluation_seed
    )
    means = torch.from_numpy(network.means).float()
    return Built(
        Network(torch.from_numpy(network.readout).float(), torch.from_numpy(centre).float()),
        examples,
        {f"keep-{count}": Indicators(means, count) for count in expected.KEPT},
    )
