"""The interface of rungs: a kernel that samples ε given the reconstruction, and what it may condition on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.residual.calibration import Calibration
from remainder.residual.codes import Codes
from remainder.residual.covariance import Covariance
from remainder.residual.noise import Draw, NoiseKeys, normal
from remainder.residual.rows import Seen

__all__ = ["WITHHELD", "Context", "Kernel", "ResidualModel", "Sample", "of_length", "residual_of"]

Sample = Float[Tensor, "docs pos d"]


WITHHELD = ("residual", "codes", "tokens")
"""Optional fields of a context, which no rung sees that does not declare them."""

_REMEMBERED = 2**24  # numbers in float64, 134 MB, of the noise of one batch


@dataclass(frozen=True)
class Context:
    """The information that a residual model may condition on.

    Fields that may be None are withheld from every rung that does not declare them (`RungSpec.needs`); to
    let rungs condition on something new, add such a field here and fill it where contexts are made
    (`measure.kernels.splice`) and among `WITHHELD`. No other rung sees it.

    `memo` may be shared by contexts of the same windows, so that one draw's noise is made once.
    """

    places: NoiseKeys
    reconstruction: Float[Tensor, "docs pos d"]
    mask: Bool[Tensor, "docs pos"]
    residual: Float[Tensor, "docs pos d"] | None = None
    memo: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)
    codes: Codes | None = None
    """The codes that the reconstruction stands on, quantised where these are paid for: of the positions where
    the mask holds, in their order."""
    tokens: Int[Tensor, "docs pos"] | None = None
    """Ids of the input; null where it is numbers."""

    def normal(self, draw: Draw) -> Sample:
        """Keyed standard normal values in the reconstruction's shape, float64."""
        if draw.pair not in self.memo:
            _, positions, width = self.reconstruction.shape
            if (len(self.memo) + 1) * self.reconstruction.numel() > _REMEMBERED:
                self.memo.clear()
            self.memo[draw.pair] = normal(
                self.places, Draw(2 * draw.pair), positions, width, device=self.reconstruction.device
            )
        return draw.sign * self.memo[draw.pair]

    def coloured(self, covariance: Covariance, draw: Draw) -> Sample:
        """Centred Gaussian values of that covariance."""
        return covariance.colour(self.normal(draw), self.places, draw)

    def limited_to(self, needs: Collection[str]) -> Context:
        """A copy of this context without the optional fields that are not among `needs`."""
        withheld: dict[str, Any] = {name: None for name in WITHHELD if name not in needs}
        return replace(self, **withheld)

    @property
    def seen(self) -> Seen:
        """The part that conditional kernels see: neither x nor its residual."""
        return Seen(self.reconstruction, self.mask, self.codes, self.tokens)


@runtime_checkable
class ResidualModel(Protocol):
    """A rung that is fitted: made from a `Calibration` by `ladder.prepare`, and ready to be sampled."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        """One sample in float64, in the shape of the reconstruction: ε, or what takes the place of x̂."""
        ...


class Kernel:
    """Base class of rungs: fits nothing, and centres samples on a mean μ where there is one."""

    mean: Float[Tensor, " d"]

    def __init__(self, calibration: Calibration | None = None) -> None:
        """Fit nothing; rungs that inherit this need no calibration."""

    def centre(self, context: Context) -> Sample:
        """μ at every position."""
        return self.mean.to(context.reconstruction.device).expand(context.reconstruction.shape)


def residual_of(context: Context) -> Sample:
    """The residual, float64, for the few kernels that are given it."""
    if context.residual is None:
        raise MeasurementError(
            "this kernel needs the residual, which it was not given", fix="report this bug"
        )
    return context.residual.double()


def of_length(context: Context, direction: Sample) -> Sample:
    """`direction` scaled, position by position, to the length of the residual.

    Raises:
        MeasurementError: where the direction is 0 and the residual is not.
    """
    length = residual_of(context).norm(dim=-1, keepdim=True)
    norm = direction.norm(dim=-1, keepdim=True)
    if bool(((norm == 0) & (length > 0))[context.mask].any()):
        raise MeasurementError(
            "the fitted covariance is zero, but residuals on evaluation are not: no direction to follow",
            fix="look at the calibration residual: it is constant",
        )
    return torch.where(length > 0, direction * (length / norm.clamp(min=torch.finfo(norm.dtype).tiny)), 0.0)
