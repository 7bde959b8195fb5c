"""Control F: a residual of two values, whose Gaussian has tails that it has not.

Inputs are a class s = ±1 and r = ±1; the site holds r only. The model knows the class by another path, and
errs if and only if |r| is above θ: the logit of the right class is gain · (θ − |r|). The interpretation is
x̂ = 0. Formulas: `expected.py`.
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


@dataclass(frozen=True)
class Nothing:
    """x̂ = 0."""

    def encode(self, x: Tensor) -> Tensor:
        return x[..., :0]

    def decode(self, codes: Tensor) -> Tensor:
        return codes.new_zeros(*codes.shape[:-1], 1)


class Network(nn.Module):
    """Class and residual [windows, positions, 2] to logits (0, s · gain · (θ − |r|))."""

    def __init__(self, gain: float, threshold: float) -> None:
        super().__init__()
        self.residual = nn.Identity()
        self.gain, self.threshold = gain, threshold

    def forward(self, x: Tensor) -> Tensor:
        size = self.residual(x[..., 1:]).abs()[..., 0]
        logit = x[..., 0] * self.gain * (self.threshold - size)
        return torch.stack([torch.zeros_like(logit), logit], -1)


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Independent signs: the class, which is the label, and r."""
    chosen = expected.Parameters(**parameters)

    def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        inputs = generator.choice((-1.0, 1.0), (count, 2))
        return inputs, inputs[:, 0] > 0

    return Built(
        Network(chosen.gain, chosen.ratio),
        data.examples(seed, rows, evaluation_seed=evaluation_seed),
        {"nothing": Nothing()},
    )
