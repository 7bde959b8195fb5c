"""Expected values of control B once the interpretation keeps the one square that the label depends on.

Source: Wen, Hu, Lu, Fan and Misiakiewicz (2025, arXiv 2512.03325), conditional Gaussian equivalence: given
the few directions that labels depend on, features are as good as Gaussian. Exact twin: `sums`, law "chaos".

The network, labels and readout of control B (`alignment/expected.py`): y = λ z + κ (z² − 1)/√2 + noise with
z = βᵀx, f = aᵀ(h − μ0), h = max(Wx, 0). The interpretation keeps what h has of z² too,

    x̂ = μ0 + W x/2 + ĉ_2 q (z² − 1)/√2,   q_i = (w_i·β)².

Steps:
1. Hermite polynomials of different degree are uncorrelated, and E[He_2(w_i·x) He_2(z)] = 2 q_i: the residual
   is uncorrelated with x̂ and with y, and Cov(r) is that of control B less ĉ_2² q qᵀ.
2. L = Var y − 2 E[y aᵀx̂'] + Var aᵀx̂' + v, with E[y aᵀx̂'] = λ aᵀWβ/2 + κ ĉ_2 aᵀq,
   Var aᵀx̂' = ‖Wᵀa‖²/4 + ĉ_2² (aᵀq)², and v = aᵀ Cov(ε) a for the noise of a rung.
3. So L_full = L_clean, where control B has a gap of 2 κ ĉ_2 aᵀq. With squared loss this is exact at any d;
   the theorem is about every loss, up to O(1/d).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Parameters", "claims", "draw", "expected", "expected_of_readout", "residual_covariance"]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

QUADRATIC = float(1 / np.sqrt(4 * np.pi))
"""ĉ_2 of ReLU."""


def _alignment() -> ModuleType:
    path = Path(__file__).parent.parent / "alignment/expected.py"
    name = "expected_of_alignment"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


_base = _alignment()
Parameters, draw = _base.Parameters, _base.draw


def residual_covariance(network: Any) -> Array:
    """Cov(r) [p, p] of what is left of the features (step 1)."""
    kept = (network.weights @ network.teacher) ** 2
    covariance: Array = _base.residual_covariance(network.weights) - QUADRATIC**2 * np.outer(kept, kept)
    return covariance


def expected_of_readout(parameters: Any, network: Any) -> dict[str, float]:
    """Mean squared errors by rung, and for "clean" (step 2)."""
    weights, teacher, readout = network
    cosine = weights @ teacher
    square = QUADRATIC * float(readout @ cosine**2)
    power = parameters.linear**2 + parameters.quadratic**2 + parameters.label_noise
    shared = parameters.linear * float(readout @ cosine) / 2 + parameters.quadratic * square
    raw = power - 2 * shared + float(np.sum((weights.T @ readout) ** 2)) / 4 + square**2
    full = raw + float(readout @ residual_covariance(network) @ readout)
    return {"clean": full, "raw": raw, "mean": raw, "full": full, "permuted": full}


def expected(parameters: Any) -> dict[str, float]:
    """Expected values, see `expected_of_readout`, for the readout of `draw`."""
    return expected_of_readout(parameters, draw(parameters))


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats of −log N(y; f, 1).

    That is half the squared error, plus log(2π)/2. Beside it stands the interpretation of control B.
    """
    chosen = Parameters(seed=seed, **parameters)
    network = draw(chosen)
    before = _base.expected_of_readout(chosen, network)
    found: Claims = {}
    for name, values in (("linear", before), ("conditional", expected_of_readout(chosen, network))):
        own: dict[str, float | tuple[float, float]] = {
            rung: values[rung] / 2 + float(np.log(2 * np.pi)) / 2
            for rung in ("clean", "raw", "full", "permuted")
        }
        gap = (values["full"] - values["clean"]) / 2
        found[name] = {**own, "full gap": gap, "permuted gap": gap, "shape": 0.0}
    return found
