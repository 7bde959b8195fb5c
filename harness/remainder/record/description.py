"""Description length of activations with a Gaussian remainder: net bits of an interpretation.

All are sums over the spliced tokens of each document, per spliced token; see `measure.description`. Net bits
are signed: below 0 the codes cost more than they are worth, and a Gaussian of x alone describes it better.

Source: protocol 2, section 6.
"""

from __future__ import annotations

from remainder.record.conditional import DescriptionMetrics
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.number import Number
from remainder.record.values import DESCRIPTION, Totals, column

__all__ = ["NOISES", "description_metrics", "net_bits"]

NOISES = (1e-3, 1e-2, 1e-4)
"""Variances of the added noise over that of x per dimension: the one that counts, a larger, a smaller."""

_CODE, _SQUARES, *_DENSITIES = DESCRIPTION
_PAIRS = tuple(zip(_DENSITIES[::2], _DENSITIES[1::2], strict=True))
"""Columns of x and of the remainder, for each of `NOISES`."""


def net_bits(totals: Totals, noise: int = 0) -> Ratio | str:
    """Net bits per spliced token, or why there are none.

    Args:
        noise: place in `NOISES`.
    """
    raw = totals.get("raw")
    if raw is None or _CODE not in raw:
        return "description lengths were not measured"
    x, remainder = _PAIRS[noise]
    net = column(raw, x) - column(raw, _CODE) - column(raw, remainder)
    return Ratio(net, column(raw, "spliced"))


def description_metrics(bootstrap: Bootstrap, totals: Totals) -> DescriptionMetrics | None:
    """The table of a record; None if it was not measured."""
    raw = totals.get("raw")
    if raw is None or _CODE not in raw:
        return None
    spliced = column(raw, "spliced")
    x, remainder = _PAIRS[0]
    net, coarse, fine = (Number.of_ratio(bootstrap, net_bits(totals, place)) for place in range(len(NOISES)))
    return DescriptionMetrics(
        fvu=Number.of_ratio(bootstrap, Ratio(column(raw, _SQUARES), column(raw, "centred_ss"), "positive")),
        gaussian=Number.of_ratio(bootstrap, Ratio(column(raw, x), spliced)),
        code=Number.of_ratio(bootstrap, Ratio(column(raw, _CODE), spliced, "positive")),
        remainder=Number.of_ratio(bootstrap, Ratio(column(raw, remainder), spliced)),
        net=net,
        net_coarse=coarse,
        net_fine=fine,
    )
