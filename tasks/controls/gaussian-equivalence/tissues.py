"""Expected values of the tissues of control A: one shape in all of them.

Whatever tokens are grouped by, noise of the bath's covariance and the bath of another token are drawn from
the same two laws, of which the network reads one number that is Gaussian under both, up to O(1/d) in its
fourth cumulant. What they cost depends on the group, and which of them it is does not.
"""

from __future__ import annotations

from typing import Any

__all__ = ["claims"]


def claims(seed: int, *, features: int, **parameters: Any) -> dict[str, dict[str, float]]:
    """Spreads as standard normal numbers, with none and with all sources kept."""
    return {"linear by index in tissues": {f"{kept}: spread shape": 0.0 for kept in (0, features)}}
