"""Control B once the interpretation keeps the one square that the label depends on.

Network, data and the interpretation `linear` are those of `alignment/build.py`; `conditional` keeps what the
features have of z² too, z = βᵀx read from the preactivations. Formulas: `expected.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remainder.build import Built, load_script

HERE = Path(__file__).parent
expected = load_script(HERE / "expected.py")
alignment = load_script(HERE.parent / "alignment/build.py")
data = alignment.data


@dataclass(frozen=True)
class Conditional:
    """x̂ = μ0 + Wx/2 + (z² − 1) · square; codes are Wx and z² − 1."""

    reader: Tensor
    """[p]: z is this times the preactivations."""
    square: Tensor
    """[p]."""

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x, ((x @ self.reader) ** 2 - 1)[..., None]], -1)

    def decode(self, codes: Tensor) -> Tensor:
        return alignment.CONSTANT + codes[..., :-1] / 2 + codes[..., -1:] * self.square


def build(seed: int, folder: Path, *, evaluation_seed: int | None = None, **parameters: Any) -> Built:
    """That of control B, with another interpretation beside its own."""
    built = alignment.build(seed, folder, evaluation_seed=evaluation_seed, **parameters)
    weights, teacher, _ = expected.draw(expected.Parameters(seed=seed, **parameters))
    reader = np.linalg.pinv(weights).T @ teacher
    square = expected.QUADRATIC / math.sqrt(2) * (weights @ teacher) ** 2
    conditional = Conditional(torch.from_numpy(reader).float(), torch.from_numpy(square).float())
    return replace(built, interpretations={**built.interpretations, "conditional": conditional})
