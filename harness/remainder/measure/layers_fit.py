"""Moments of the remainders of a chain, the noise that follows from them, and their covariances in short.

Source: `record.layers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.measure.several_sites_fit import FoldMoments, SiteNoise
from remainder.record.layers import ARRIVALS, REMAINDERS, Against, Arrived, SiteFit, Spectrum
from remainder.residual.covariance import fit_covariance
from remainder.residual.moments import Moments

__all__ = ["LEADING", "Fitted", "fit_of", "mean_of", "noise_of", "spectrum_of"]

LEADING = 10
"""Eigenvectors whose space is compared, at most; of a narrow site half of its width."""

_SHOWN = 5  # eigenvalues that are kept


@dataclass
class Fitted:
    """Moments of one k and site, and the noise that follows from them."""

    remainder: dict[str, FoldMoments] = field(
        default_factory=lambda: {name: FoldMoments() for name in REMAINDERS}
    )
    arrival: dict[str, FoldMoments] = field(
        default_factory=lambda: {name: FoldMoments() for name in ARRIVALS}
    )
    single: SiteNoise = field(init=False)
    """Noise of the remainder in the untouched model."""
    sequential: SiteNoise = field(init=False)
    """Noise of the remainder with noise below."""


def noise_of(name: str, moments: FoldMoments) -> SiteNoise:
    """Gaussian noise of the mean and shrunk covariance of a remainder.

    Args:
        name: of the site.

    Raises:
        MeasurementError: fewer than two rows were seen.
    """
    return SiteNoise(name, fit_covariance(moments.found(name)))


def mean_of(moments: FoldMoments) -> Float[Tensor, " d"]:
    """Mean of all rows."""
    return Moments.merged(moments.parts).mean


def fit_of(fitted: Fitted) -> SiteFit:
    """The figures of a site with sites below."""
    below, arrival = fitted.remainder, fitted.arrival
    return SiteFit(
        alone=spectrum_of(below["alone"]),
        raw=spectrum_of(below["raw"]),
        gaussian=spectrum_of(below["gaussian"]),
        raw_to_alone=_against(below["raw"], below["alone"]),
        gaussian_to_alone=_against(below["gaussian"], below["alone"]),
        arrived=Arrived(
            linear=spectrum_of(arrival["linear"]),
            gaussian=spectrum_of(arrival["gaussian"]),
            real=spectrum_of(arrival["real"]),
            gaussian_to_linear=_against(arrival["gaussian"], arrival["linear"]),
            real_to_linear=_against(arrival["real"], arrival["linear"]),
        ),
    )


def spectrum_of(folded: FoldMoments) -> Spectrum:
    """The covariance of all rows, not shrunk, in a few numbers."""
    covariance = Moments.merged(folded.parts).covariance
    values = torch.linalg.eigvalsh(covariance).clamp(min=0).flip(0)
    power = float(values.sum())
    shares = values[:_SHOWN] / power if power else torch.zeros(0)
    return Spectrum(
        power=power,
        leading=tuple(shares.tolist()),
        directions=power**2 / float(values.square().sum()) if power else 0.0,
    )


def _against(folded: FoldMoments, reference: FoldMoments) -> Against | None:
    """A mean and covariance beside others; None where these are nothing."""
    new, old = Moments.merged(folded.parts), Moments.merged(reference.parts)
    a, b = old.covariance, new.covariance
    if not (power := float(a.trace())) > 0:
        return None
    count = min(LEADING, len(a) // 2)
    spaces = [torch.linalg.eigh(each).eigenvectors[:, -count:] for each in (a, b)]
    return Against(
        mean=float((new.mean - old.mean).norm()) / power**0.5,
        distance=float((b - a).norm() / a.norm()),
        overlap=float((spaces[0].T @ spaces[1]).square().sum()) / count,
    )
