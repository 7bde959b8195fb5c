"""Control E: a parity, which no rung that ignores how r depends on the label can keep.

The site holds m signs; the model answers by their product, and so does the label. The interpretation keeps
none of them. Formulas: `expected.py`.
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

    width: int

    def encode(self, x: Tensor) -> Tensor:
        return x[..., :0]

    def decode(self, codes: Tensor) -> Tensor:
        return codes.new_zeros(*codes.shape[:-1], self.width)


class Network(nn.Module):
    """Signs [windows, positions, m] to logits (0, gain · their product)."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.signs = nn.Identity()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        logit = self.gain * self.signs(x).prod(-1)
        return torch.stack([torch.zeros_like(logit), logit], -1)


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """Random signs, and whether their product is +1."""
    chosen = expected.Parameters(**parameters)

    def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        signs = generator.choice((-1.0, 1.0), (count, chosen.signs))
        return signs, signs.prod(1) > 0

    return Built(
        Network(chosen.gain),
        data.examples(seed, rows, evaluation_seed=evaluation_seed),
        {"nothing": Nothing(chosen.signs)},
    )
