"""Expected values of the shell chains by one Gaussian mode a shell.

The model reads the sum of all coordinates, so that g is (1, …, 1) up to its length, and a mode that keeps
gᵀΣg keeps all that the loss reads: whatever Λ and z, the loss is that of the whole Gaussian. Coordinates are
independent, so that one independent mode a source costs what the Gaussian does. On calibration rows they
correlate by what is left of their evenness, which the allowance is for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from remainder.build import load_script

__all__ = ["KEPT", "claims"]

expected = load_script(Path(__file__).parent / "expected.py")

Claims = dict[str, dict[str, float | tuple[float, float]]]

KEPT = 3
RATIOS = (2, 4, 8)
_EVEN = 3e-4
"""Nats by which correlations of calibration rows may move a loss."""


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the modes, in nats; the same for every seed."""
    chosen = expected.Parameters(**parameters)
    if chosen.law != "shells":
        return {}
    known = expected.expected(replace(chosen, kept=KEPT))
    found: dict[str, float | tuple[float, float]] = {
        f"{KEPT}: bath": (known["full"] - known["mean"], _EVEN),
        f"{KEPT}: sources apart": (0.0, _EVEN),
    }
    found |= {f"{KEPT}: reading {ratio}": (0.0, _EVEN) for ratio in RATIOS}
    return {"identity by index in modes": found}
