"""What every rung is: a kernel that samples ε given the reconstruction, and what it may condition on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import Covariance
from remainder.residual.noise import Draw, NoiseKeys, normal

__all__ = ["Context", "Kernel", "ResidualModel", "Sample", "residual_of"]

Driver = Literal["none", "normal", "bank"]
Sample = Float[Tensor, "docs pos d"]


@dataclass(frozen=True)
class Context:
    """What a residual model may condition on. `residual` is None for all but those that declare it.

    `memo` may be shared by contexts of the same windows, so that one draw's noise is made once.
    """

    places: NoiseKeys
    reconstruction: Float[Tensor, "docs pos d"]
    mask: Bool[Tensor, "docs pos"]
    residual: Float[Tensor, "docs pos d"] | None = None
    memo: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def normal(self, draw: Draw) -> Sample:
        """Keyed standard normal values in the reconstruction's shape, float64."""
        if draw.pair not in self.memo:
            _, positions, width = self.reconstruction.shape
            self.memo.clear()
            z = normal(self.places, Draw(2 * draw.pair), positions, width)
            self.memo[draw.pair] = z.to(self.reconstruction.device)
        return draw.sign * self.memo[draw.pair]

    def coloured(self, covariance: Covariance, draw: Draw) -> Sample:
        """Centred Gaussian values of that covariance."""
        return covariance.colour(self.normal(draw), self.places, draw)

    def without_residual(self) -> Context:
        """The same, blind to the activation."""
        return replace(self, residual=None)


@runtime_checkable
class ResidualModel(Protocol):
    """A rung: fitted on calibration residuals, sampled given the reconstruction only."""

    driver: ClassVar[Driver]
    needs_residual: ClassVar[bool]

    def fit(self, calibration: Calibration) -> ResidualModel:
        """Fit to calibration residuals; returns itself.

        Raises:
            NotMeasurableError: if this residual does not admit such a model.
        """
        ...

    def sample(self, context: Context, draw: Draw) -> Sample:
        """One sample of ε in float64, in the shape of the reconstruction."""
        ...


class Kernel:
    """What most rungs are: without noise of their own, blind to the residual, centred on μ."""

    driver: ClassVar[Driver] = "none"
    needs_residual: ClassVar[bool] = False
    mean: Float[Tensor, " d"]

    def centre(self, context: Context) -> Sample:
        """μ at every position."""
        return self.mean.to(context.reconstruction.device).expand(context.reconstruction.shape)


def residual_of(context: Context) -> Sample:
    """The residual, for the few kernels that are handed it; float64."""
    if context.residual is None:
        raise MeasurementError(
            "this kernel needs the residual, which it was not given", fix="report this bug"
        )
    return context.residual.double()
