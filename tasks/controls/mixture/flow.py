"""Expected values of a flow of the mixture: the first k of K − 1 classes are told apart from the rest.

With all K − 1 what is left out is exactly Gaussian, so that shape is 0 from k* = K − 1 on; before that it is
that of a mixture, of a size and sign that the means of the world decide. Formulas: `expected.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from remainder.build import load_script

__all__ = ["KEPT", "claims"]

expected = load_script(Path(__file__).parent / "expected.py")

Claims = dict[str, dict[str, float | tuple[float, float]]]

KEPT = (1, 3, 5, 7)
"""The k of the shells that are measured."""


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the flow, in nats."""
    chosen = expected.Parameters(seed=seed, **parameters)
    network = expected.draw(chosen)
    own: dict[str, float | tuple[float, float]] = {}
    for kept in KEPT:
        at = expected.expected_of_network(replace(chosen, kept=kept), network)
        own |= {f"{kept}: {name}": at[name] for name in ("shape", "full kl")}
        own[f"{kept}: raw gap"] = at["raw kl"]
    return {f"keep-{chosen.classes - 1} by index": own}
