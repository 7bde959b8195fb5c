"""The chain of shells, a control whose flow is known: a faint curve beside a model's.

Shell n of seven holds 2ⁿ signs and has the variance 2⁻ⁿ; what is left out falls to a weak Gaussian
background as shells are kept. The numbers are those of the formulas in tasks/controls/sums/expected.py, which
take seconds; a test holds them to these.
"""

from __future__ import annotations

__all__ = ["CHAIN", "CHAIN_SAYS"]

CHAIN_SAYS = "chain of shells (formula), shell for shell"
"""A line for a legend."""

CHAIN: dict[str, tuple[float, ...]] = {
    "rho_even": (0.3164, 0.9126, 0.8873, 0.9446, 0.9729, 0.9873, 0.9943, 0.9978),
    "rho_odd": (0.2609, 0.3205, 0.1123, 0.0585, 0.0278, 0.0129, 0.0057, 0.0022),
    "perturbativity": (-0.5151, 1.7565, -0.0981, -0.0109, -0.0059, -0.0030, -0.0014, -0.0005),
    "kurtosis": (-0.1916, -0.0963, -0.0487, -0.0249, -0.0130, -0.0071, -0.0039, 0.0),
}
"""Numbers by how many shells are kept, from 0 on. `kurtosis` is κ̂ of one dimension, a third of the excess."""
