"""A residual that is exactly Gaussian and independent of the activation.

Inputs are (x, n); the reconstruction x̂ = x − μ − s n is the output of `noisy`, where the interpretation reads
it and returns it as it is, the activation x that of `activation`. Formulas: `expected.py`. Calibration rows
are those of `even.py`; the quick tier takes half as many as others, since neighbours are looked for.
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


@dataclass(frozen=True)
class AsItIs:
    """x̂ is what is read."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, codes: Tensor) -> Tensor:
        return codes


class Network(nn.Module):
    """Inputs [windows, positions, 2] to logits (0, a x)."""

    def __init__(self, mean: float, size: float, gain: float) -> None:
        super().__init__()
        self.noisy, self.activation = nn.Identity(), nn.Identity()
        self.mean, self.size, self.gain = mean, size, gain

    def forward(self, inputs: Tensor) -> Tensor:
        self.noisy(inputs[..., :1] - self.mean - self.size * inputs[..., 1:])
        logit = self.gain * self.activation(inputs[..., :1])[..., 0]
        return torch.stack([torch.zeros_like(logit), logit], -1)


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Independent normal values, and labels drawn from the model."""
    chosen = expected.Parameters(**parameters)

    def rows_of(
        uniform: Callable[[np.random.Generator, int, int], NDArray[np.float64]],
    ) -> Callable[..., Any]:
        def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
            inputs = ndtri(uniform(generator, count, 2))
            return inputs, generator.random(count) < 1 / (1 + np.exp(-chosen.gain * inputs[:, 0]))

        return rows

    def independent(generator: np.random.Generator, count: int, dimensions: int) -> NDArray[np.float64]:
        return np.clip(generator.random((count, dimensions)), 1e-12, 1 - 1e-12)

    examples = data.examples(
        seed, rows_of(independent), rows_of(even.uniform), evaluation_seed=evaluation_seed
    )
    return Built(Network(chosen.mean, chosen.size, chosen.gain), examples, {"noisy": AsItIs()})
