"""Bernoulli–Gaussian sources, of which an interpretation keeps what is above a threshold.

The site holds d sources; the model reads the first. Formulas: `expected.py`. Calibration rows are those of
`even.py`.
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
class Threshold:
    """Coordinates that are larger than θ, and 0 for all others."""

    threshold: float

    def encode(self, x: Tensor) -> Tensor:
        return torch.where(x.abs() > self.threshold, x, 0.0)

    def decode(self, codes: Tensor) -> Tensor:
        return codes


class Network(nn.Module):
    """Sources [windows, positions, d] to logits (0, a x_1)."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.sources = nn.Identity()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        logit = self.gain * self.sources(x)[..., 0]
        return torch.stack([torch.zeros_like(logit), logit], -1)


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Sources, and labels drawn from the model."""
    chosen = expected.Parameters(**parameters)

    def rows_of(uniform: Callable[[np.random.Generator, int, int], Array]) -> Callable[..., Any]:
        def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
            # One uniform value a source says whether it is on and, by where it lies in that part, its size.
            places = uniform(generator, count, chosen.sources)
            on = places < chosen.probability
            inside = np.where(
                on, places / chosen.probability, (places - chosen.probability) / (1 - chosen.probability)
            )
            spread = np.sqrt(chosen.background + np.where(on, chosen.signal, 0.0))
            x = spread * ndtri(np.clip(inside, 1e-12, 1 - 1e-12))
            return x, generator.random(count) < 1 / (1 + np.exp(-chosen.gain * x[:, 0]))

        return rows

    def independent(generator: np.random.Generator, count: int, dimensions: int) -> Array:
        return np.asarray(generator.random((count, dimensions)))

    examples = data.examples(
        seed, rows_of(independent), rows_of(even.uniform), evaluation_seed=evaluation_seed
    )
    return Built(Network(chosen.gain), examples, {"threshold": Threshold(chosen.threshold)})
