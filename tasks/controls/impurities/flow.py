"""Expected values of a flow of equal impurities: k of the m features are kept.

The scale is planted at k* = m. Before it what is left out holds features of the size of those that are kept,
and real rows cost more than Gaussian ones by a tenth of the loop, for every k; from m on it is the
Gaussian background alone, and shape is 0. (That it is within 5 % of the loop there takes more documents: one
real row in the place of another moves the loss at first order, which mirrored Gaussian draws cancel.)

Losses are those of `expected.py`, where they are by enumeration; orders are not claimed of features.
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

KEPT = (6, 10, 12)
"""The k of the shells that are measured."""


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the flow, in nats; nothing of features of other sizes, or kept otherwise."""
    chosen = expected.Parameters(**parameters)
    if (chosen.law, chosen.selection, chosen.labels) != ("equal", "static", "model"):
        return {}
    losses = {kept: expected.expected(replace(chosen, kept=kept)) for kept in KEPT}
    own: dict[str, float | tuple[float, float]] = {}
    for kept, at in losses.items():
        at["shape"] = at["full"] - at["permuted"]
        own[f"{kept}: shape"] = at["shape"]
        if kept < chosen.features:
            own[f"{kept}: margin shape"] = float(scales.margins("shape", {kept: at}).max())
        own |= {f"{kept}: {rung} gap": at[rung] - at["clean"] for rung in ("raw", "mean", "full")}
    return {"identity by index": own}
