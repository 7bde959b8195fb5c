"""The rungs: kernels Q(dε | x̂) for the residual, one small class each.

A rung is prepared and then sampled: its class is called with a `Calibration`, on which it fits what it needs,
and `sample(context, draw)` gives ε, which is added to the reconstruction at every spliced position (or to
the activation, or takes the reconstruction's place: `RungSpec.base`). It sees the reconstruction and the
positions, never the activation itself; a rung that needs more of the `Context` declares it in the table
`remainder.record.rungs`, and only then is it given (the residual, for the check `true` and for
splices around x).
With μ and Σ the mean and covariance of the calibration residual r, and m the mean of x̂:

| rung | kernel |
|---|---|
| `raw` | ε = 0 |
| `mean` | μ |
| `isotropic` | N(μ, (tr Σ/d) I) |
| `diagonal` | N(μ, diag Σ) |
| `full-0.3`, `full-0.6` | μ + 0.3 ε, μ + 0.6 ε with ε ~ N(0, Σ̂), the noise of `full` |
| `full` | N(μ, Σ̂), Σ̂ shrunk; `full-unshrunk` with the bank's own μ and Σ |
| `linear-mean` | μ + A(x̂ − m) |
| `linear` | the same plus Gaussian noise with the covariance of what A leaves |
| `temporal` | `full`, correlated across positions by ρ(l) = E[(r_t−μ)ᵀΣ̂⁻¹(r_{t+l}−μ)]/d |
| `full-temporal` | `residual.spacetime`: `full`, with a covariance across tokens up to three apart |
| `radial` | μ + R Σ̂^{1/2}u, u a random direction, R a calibration radius ‖Σ̂^{−1/2}(r−μ)‖ |
| `perturbative-m` | μ + m^{−1/2} Σ_{i≤m}(r_{π(i)} − μ), real residuals drawn independently |
| `permuted` | a real residual, drawn anew at each position |
| `permuted-block` | the residuals of one window as they follow each other |
| `matched` | a real residual whose x̂ lay in the same cell |
| `renormalised`, `hetero`, `context`, `token` | `residual.conditional` |
| `cluster`, `neighbour` | `residual.cluster`, `residual.neighbour` |
| `true` | r itself |

The denominators of the Gaussian ratio are kernels too, but are added to the clean activation; so are those of
`residual.around`.

Source: protocol 1, section 3.
"""

from __future__ import annotations

from pkgutil import resolve_name

import torch

from remainder.record.rungs import RungSpec
from remainder.residual.calibration import Calibration
from remainder.residual.kernel import Context, Kernel, ResidualModel, Sample, residual_of
from remainder.residual.noise import Draw

__all__ = ["Mean", "Raw", "TrueResidual", "prepare"]


def prepare(rung: RungSpec, calibration: Calibration) -> ResidualModel:
    """The model of a rung, fitted to calibration residuals.

    Raises:
        NotMeasurableError: if these residuals do not admit such a model.
    """
    model: ResidualModel = resolve_name(rung.model)(calibration, *rung.arguments)
    return model


class Raw(Kernel):
    """ε = 0: the reconstruction alone."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        return torch.zeros_like(context.reconstruction, dtype=torch.float64)


class Mean(Kernel):
    """ε = μ: what the reconstruction misses on average."""

    def __init__(self, calibration: Calibration) -> None:
        self.mean = calibration.mean

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self.centre(context)


class TrueResidual(Kernel):
    """ε = r: a check of the machinery, since x̂ + r must give the clean model."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        return residual_of(context)
