"""Expected values of flows of the shell chains and of quadratic chaos: the first k parts are kept.

Losses at each k are those of `expected.py`. Scales follow from them by `scales.py`. Which are claimed:

- `k perturbative` and `k raw` of shells: one loop tells the loss from the third shell on, and what is left
  out may be left out once it has a hundredth of the variance. Margins are far from 0 on either side.
- no `k shape` of shells: signs of equal size make a shape of at most 4 % of the loop, so that the criterion
  of 5 % is met with nothing kept, for b = 1 too. What differs is the kurtosis of what is left out.
- of chaos shape itself at each k: it is there until all m components are kept, which is k* = m. (By the
  criterion of 5 % it would be two.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from remainder.build import load_script

__all__ = ["KEPT", "claims"]

HERE = Path(__file__).parent
expected = load_script(HERE / "expected.py")
scales = load_script(HERE.parent / "scales.py")

Claims = dict[str, dict[str, float | tuple[float, float]]]

KEPT = {"shells": (0, 2, 3, 5, 6), "chaos": (1, 2, 3, 4)}
"""The k of the shells that are measured."""


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the flow, in nats; the same for every seed."""
    chosen = expected.Parameters(**parameters)
    losses = {kept: expected.expected(replace(chosen, kept=kept)) for kept in KEPT[chosen.law]}
    shells = chosen.law == "shells"
    own: dict[str, float | tuple[float, float]] = {}
    for kept, at in losses.items():
        own |= {f"{kept}: raw gap": at["raw kl"], f"{kept}: full kl": at["full kl"]}
        own |= {f"{kept}: {name}": at[name] for name in (("missing",) if shells else ("shape",))}
    if shells:
        own |= {f"k {name}": scales.scale(name, losses) for name in ("perturbative", "raw")}
    return {"identity by index": own}
