"""Metrics of a record on what conditional kernels find, and on description lengths: fields and units."""

from __future__ import annotations

from remainder.record.number import FrozenModel, Number

__all__ = ["ConditionalTelescope", "DescriptionMetrics"]


class ConditionalTelescope(FrozenModel):
    """The Gaussian gap by what conditional samplers find of it. Nats per scored token.

    shape + found + not_found = total, exactly. Means stand apart, against `mean`: in place of a sample they
    would be credited with the cost of the noise that they lack.
    """

    total: Number
    """The gap of `full-unshrunk`, or where that was not measured, of `full`."""
    shape: Number
    """Gap of that rung − permuted: one-token shape."""
    best: str | None
    """The sampler of least surprise on calibration documents that it was not fitted to."""
    found: Number
    """permuted − best."""
    not_found: Number
    """best − clean: not found with the calibration rows that there were."""
    samplers: dict[str, Number]
    """permuted − rung, of every conditional sampler that was measured."""
    means: dict[str, Number]
    """mean − rung, of every conditional mean that was measured."""


class DescriptionMetrics(FrozenModel):
    """Description length of activations with a Gaussian remainder. Bits per spliced token.

    Those of densities are beyond the entropy of the noise that is added to all activations.
    """

    fvu: Number
    """Squared residual over centred sum of squares, at the step of this table."""
    gaussian: Number
    """Activations under a Gaussian of their own."""
    code: Number
    """The quantised codes."""
    remainder: Number
    """Activations less what the codes decode to, under a Gaussian of these."""
    net: Number
    """gaussian − code − remainder: bits that the interpretation saves."""
    net_coarse: Number
    """Net bits with ten times the variance of the noise."""
    net_fine: Number
    """Net bits with a tenth of it."""
