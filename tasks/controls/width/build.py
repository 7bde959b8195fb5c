"""Control C: preactivations of wide random networks, Gaussian up to 1/width.

The ensemble is over weights: every row holds one preactivation of the last layer of each of `COPIES`
independent networks, all at one fixed input. The loss of a row is the mean over them of log 2cosh(z/2),
which is softplus(z) without its odd part z/2: that has mean 0 here, on every rung, and would be most of the
noise. The interpretation is the infinite-width mean, x̂ = 0. Formulas: `expected.py`.

Networks are drawn layer by layer: given layer l, the units of layer l + 1 are independent N(0, v), and all
that the next layer sees of them is the sum of their squares, or of the squares of the positive ones (ReLU).
That sum is χ² with as many degrees of freedom as there are (positive) units, so that it is drawn as one
number.

How much data: calibration has 65,536 rows of 64 networks. It adds to the standard error of full − permuted
the spread of G′(1)z² − log 2cosh(z/2) over √(65,536 · 64): 7e-5 nats at n = 16, 3e-5 at n = 32, 1e-5 or
less beyond. That of the evaluation is about 3e-4 nats at n = 16 (64 windows, one pair of draws), 1.5e-4
beyond (128 windows, two pairs). `full` and `permuted` taken alone have a larger error from calibration,
which cancels between them: their claims allow for it.
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

NO = 1
"""The class that is always the answer."""


@dataclass(frozen=True)
class InfiniteWidth:
    """x̂ = 0: no features at all."""

    width: int

    def encode(self, x: Tensor) -> Tensor:
        return x[..., :0]

    def decode(self, codes: Tensor) -> Tensor:
        return codes.new_zeros(*codes.shape[:-1], self.width)


class Readout(nn.Module):
    """Preactivations [windows, positions, copies] to logits (t, 0) with log(1 + eᵗ) = mean log 2cosh(z/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.preactivation = nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        size = self.preactivation(z).abs()
        loss = (size / 2 + torch.log1p(torch.exp(-size))).mean(-1)
        logit = torch.log(torch.expm1(loss))
        return torch.stack([logit, torch.zeros_like(logit)], -1)


def last_layer(
    generator: np.random.Generator, activation: str, width: int, layers: int, count: int
) -> NDArray[np.float64]:
    """One preactivation of layer `layers` of each of `count` networks."""
    variance = np.ones(count)
    for _ in range(layers - 1):
        units = generator.binomial(width, 0.5, count) if activation == "relu" else width
        sum_of_squares = 2 * generator.standard_gamma(np.broadcast_to(units / 2, count))
        variance *= expected.WEIGHT_VARIANCE[activation] / width * sum_of_squares
    return np.sqrt(variance) * generator.standard_normal(count)


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Rows of networks, all with the label "no"."""
    chosen = expected.Parameters(**parameters)

    def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        z = last_layer(generator, chosen.activation, chosen.width, chosen.layers, count * expected.COPIES)
        return z.reshape(count, expected.COPIES), np.full(count, NO)

    interpretation = InfiniteWidth(expected.COPIES)
    return Built(
        Readout(),
        data.examples(seed, rows, series=chosen.width, evaluation_seed=evaluation_seed),
        {"infinite-width": interpretation},
    )
