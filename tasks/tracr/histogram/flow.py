"""Expected values of a flow of the compiled program: those of its variables that are kept which are read.

`keep-all-read` has two that are on at the site, in the order of their coordinates: the number 1/(count + 1)
and the constant 1 that thresholds are multiples of.

Steps:
1. Nothing left out is 0. Without the constant no threshold is there, so that every step of the staircase
   cancels and all logits are 0: the loss is log of the number of classes, with one or none kept. With both
   there is no gap. So `raw` falls from all to nothing between the first and the second: k* = 1.95.
2. The mean puts the constant back, which does not vary. So with the number kept every other rung costs
   nothing, and without it they cost what they cost `drop-needed`: k* = 1.
"""

from __future__ import annotations

from math import log
from pathlib import Path

from remainder.build import load_script

__all__ = ["claims"]

expected = load_script(Path(__file__).parent / "expected.py")


def claims(
    seed: int, program: str, documents: int = 200, gain: float = 10.0
) -> dict[str, dict[str, float | tuple[float, float]]]:
    """Nats per token; scales in kept variables."""
    needed = expected.claims(seed, program, documents, gain)["drop-needed"]
    raw = log(expected.LENGTH + 1) - needed["clean"]
    own: dict[str, float | tuple[float, float]] = {"0: raw gap": raw, "1: raw gap": raw, "2: raw gap": 0.0}
    own |= {f"0: {rung} gap": needed[f"{rung} gap"] for rung in ("full", "permuted")}
    own |= {f"{kept}: {rung} gap": 0.0 for kept in (1, 2) for rung in ("mean", "full", "permuted")}
    return {"keep-all-read by index": own | {"k raw": 1.95, "k perturbative": 1.0}}
