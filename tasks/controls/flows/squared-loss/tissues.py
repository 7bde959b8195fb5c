"""Expected values of the tissues of a linear network under squared loss: step 2 of `expected.py`."""

from __future__ import annotations

from typing import Any

__all__ = ["claims"]


def claims(seed: int, *, kept: int = 4, **parameters: Any) -> dict[str, dict[str, float]]:
    """Spreads as standard normal numbers."""
    return {"axes by index in tissues": {f"{kept}: spread {name}": 0.0 for name in ("raw", "full", "shape")}}
