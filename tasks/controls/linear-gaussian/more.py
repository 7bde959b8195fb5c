"""Expected values of control H, and what protocol 2 adds to them: orders, ratios, conditional rungs.

Source: PROTOCOL-2, 1, 3, 4 and 7. `expected.py` is hashed into the task, as the network is drawn with it;
this file may grow.

Steps, with r = μ + c, c = Q(x − m), and N(μ, Σ) its law:
1. Orders: the loss with noise of variance α² aᵀΣa beside f̂; two coefficients from α = .3 and .6.
2. KL to the clean model is the loss above the clean one if labels are drawn from the model, b = a.
3. Splices around x: f' = aᵀ(x − μ + u c) is u = −1 for the reconstruction, +1 for its mirror image about the
   mean; N(−μ, α²Σ) in place of it is the fitted noise, and the law of −r of another row.
4. Regressions on the codes, or on x̂ here and before, are those on x̂. Gaussian data are worth no codes: net
   bits are below 0.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Parameters", "added", "claims", "draw", "expected"]

Claims = dict[str, dict[str, float | tuple[float, float]]]

FITTED = 0.001
"""Nats that a ridge with four lags moves a loss."""


def _beside() -> ModuleType:
    path = Path(__file__).parent / "expected.py"
    name = "expected_of_linear_gaussian"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


_base = _beside()
Parameters, draw, expected = _base.Parameters, _base.draw, _base.expected


def added(network: Any) -> dict[str, float]:
    """Orders, ratios and interaction, by their names, of a network as `draw` gives it."""
    own = network._replace(teacher=network.readout)  # labels of the model: losses above clean are KL
    m, s, p, a, _ = network
    q = np.eye(len(m)) - p
    outputs, of_model = _base.outputs(network), _base.outputs(own)
    noise = outputs["full"].noise
    clean, clean_of_model = (_base.cross_entropy(found["clean"]) for found in (outputs, of_model))

    def gamma(alpha: float, found: Any, clean: float) -> float:
        return float(_base.cross_entropy(found["mean"]._replace(noise=alpha**2 * noise)) - clean)

    values: dict[str, float] = {}
    for suffix, found, base in (("", outputs, clean), (" kl", of_model, clean_of_model)):
        zero = gamma(0.0, found, base)
        small, large = (gamma(alpha, found, base) - zero for alpha in (0.3, 0.6))
        a2, a4 = np.linalg.solve([[0.09, 0.0081], [0.36, 0.1296]], [small, large])
        values |= {f"a2{suffix}": float(a2), f"a4{suffix}": float(a4)}
        values |= {f"one{suffix}": zero + float(a2), f"two{suffix}": zero + float(a2 + a4)}

    def around(mean: float, share: float = 0.0, variance: float = 0.0) -> float:
        """KL of f' = aᵀ(x + share · c) + N(mean, variance)."""
        read = a + share * q @ a
        changed = of_model["clean"]._replace(
            mean=float(a @ m) + mean,
            variance=float(read @ s @ read),
            noise=variance,
            covariance=float(read @ s @ a),
        )
        return float(_base.cross_entropy(changed) - clean_of_model)

    shift = -float(a @ q @ m)
    raw, mirror, fitted = around(shift, -1.0), around(shift, 1.0), around(shift, variance=noise)
    values |= {
        "rho": raw / fitted,
        "rho even": (raw + mirror) / 2 / fitted,
        "rho odd": (raw - mirror) / 2 / fitted,
    }
    values |= {"mirror kl": mirror, "minus-mean kl": around(shift), "rho noise-run": raw / fitted}
    small = around(shift, -0.3) + around(shift, 0.3)
    values["rho small"] = small / 2 / around(shift, variance=0.09 * noise)
    centred = around(0.0, variance=noise)
    full, mean = gamma(1.0, of_model, 0.0), gamma(0.0, of_model, 0.0)
    values["interaction"] = (full - mean) / centred - 1
    return values


def claims(seed: int, **parameters: Any) -> Claims:
    """Those of `expected.py`, and what is added to them."""
    found: Claims = _base.claims(seed, **parameters)
    network = draw(Parameters(seed=seed, **parameters))
    own = found["subspace"]
    own |= added(network)
    linear = {"renormalised": "linear", "renormalised-mean": "linear-mean", "context": "linear"}
    own |= {rung: (float(own[same]), FITTED) for rung, same in linear.items()}  # type: ignore[arg-type]
    own["net bits at most"] = 0.0
    return found
