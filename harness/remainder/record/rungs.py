"""The names of the rungs, in the order of the ladder, and what each adds to those before it.

Needs no torch: tables and figures of finished records are made from here.

Source: protocol 1, section 3.
"""

from __future__ import annotations

__all__ = ["ALL", "CIRCUIT_RUNGS", "ERROR_RUNGS", "FOLDS", "PERTURBATIVE", "RUNG_ADDS"]

ALL = "all"
"""Asks for every rung, and for what is only worth its time together with them."""

PERTURBATIVE = (2, 4, 8, 32)
"""How many residuals the rungs `perturbative-m` average; m = 1 is `permuted`."""

FOLDS = 3
"""Parts that calibration documents are dealt into, for held-out likelihoods and the spread of refits."""

RUNG_ADDS = {
    "raw": "nothing: what is left out is zero",
    "mean": "bias",
    "isotropic": "total power",
    "diagonal": "power of each coordinate",
    "full": "correlations: the Gaussian residual",
    "full-unshrunk": "the same, covariance not shrunk",
    "linear-mean": "what x̂ tells linearly, no noise",
    "linear": "the joint Gaussian of x̂ and r",
    "temporal": "correlation across tokens",
    "radial": "the real scale of each token",
    **{f"perturbative-{m}": f"cumulants, the n-th × {m}^(1−n/2)" for m in reversed(PERTURBATIVE)},
    "permuted": "all one-token shape",
    "permuted-block": "shape, real correlation across tokens",
    "matched": "dependence on x̂ (cells)",
    "true": "everything: must equal the clean model",
}
"""Kernels added to the reconstruction, by the name that tasks and records use."""

CIRCUIT_RUNGS = {
    "raw": "the mean at each position",
    "mean": "one mean for all positions",
    "zero": "nothing",
    "optimal-constant": "the constant that loses least",
    "full": "a Gaussian, one bath a source",
    "full-independent": "a Gaussian, one bath a reader",
    "full-sequential": "the same, layers below coarse-grained",
    "full-sequential-independent": "both",
    "full-counterterm": "a Gaussian that restores moments",
    "full-counterterm-independent": "the same, one bath a reader",
    "permuted": "real values of another prompt",
    "counterfactual": "those of the counterfactual prompt",
}
"""What the removed edges of a circuit carry, by the name of the rung."""

ERROR_RUNGS = {
    "errors-kept": "the mean; but all errors are kept",
    "errors-mean": "the mean; all errors too, kept or not",
    "errors-gaussian": "the mean; all errors a Gaussian",
}
"""Measured of every circuit of features besides: what SAEs miss follows the circuit in all other rungs."""
