"""The norm above which positions are attention sinks, from the norms of activations at a site.

Sinks are few positions whose norm is many times that of all others (https://arxiv.org/abs/2402.17762); they
keep their activation, since no interpretation is asked for them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.loading.activations import SiteActivations

__all__ = ["Sinks", "norms_of", "sinks_in"]

_GAP = 2.0  # times as high, from one norm to the next
_ABOVE = 4.0  # times the median, at which a sink begins
_MOST = 0.05  # of positions
_UNMET = 8.0  # times the highest norm, where there is no gap


class Sinks(NamedTuple):
    """A threshold on norms, and why it is that."""

    norm: float
    words: str
    """A sentence."""


def norms_of(activations: SiteActivations) -> NDArray[Any]:
    """Norms of activations at a site's output at spliced positions, float64 [positions]."""
    batches = activations.batches(64)
    return np.concatenate(
        [batch.prefix.x_out[batch.spliced].double().norm(dim=-1).numpy() for batch in batches]
    )


def sinks_in(norms: NDArray[Any]) -> Sinks:
    """The threshold that norms of calibration positions give.

    There are sinks if sorted norms have a gap: one at least twice the one before it, at least four times the
    median, and from there on at most a twentieth of all positions. The threshold is the geometric mean of the
    two at the widest such gap. Without a gap there are none, and it is eight times the highest norm.

    Args:
        norms: [positions], without those of special tokens.

    Returns:
        The threshold, of three digits.
    """
    ordered = np.sort(np.asarray(norms, dtype=np.float64))
    median, below, above = float(np.median(ordered)), ordered[:-1], ordered[1:]
    share = 1 - np.arange(1, len(ordered)) / len(ordered)  # of positions from each gap on
    ratios = above / np.maximum(below, np.finfo(np.float64).tiny)
    ratios[(share > _MOST) | (above < _ABOVE * median)] = 0
    place = int(ratios.argmax()) if len(ratios) else 0
    if not len(ratios) or ratios[place] < _GAP:
        highest = float(ordered[-1])
        norms_are = f"median {_shown(median)}, at most {_shown(highest)}"
        return Sinks(
            _rounded(_UNMET * highest) or 1.0,
            f"No attention sinks: the norms of calibration positions have no gap ({norms_are}).",
        )
    low, high = float(below[place]), float(above[place])
    return Sinks(
        _rounded(math.sqrt(max(low, median) * high)),
        f"Attention sinks are {share[place]:.2%} of calibration positions, with norms from {_shown(high)}; "
        f"the others have at most {_shown(low)}.",
    )


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
