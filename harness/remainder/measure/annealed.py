"""The loss of a prediction whose noise is integrated out: −log E_ε p(y | x̂ + ε), per token.

1. Draws are grouped into G independent units; an antithetic pair is one, its halves being dependent.
2. The plain estimate A = −log mean p is too high by about Var(p)/(2 S p̄²); the jackknife
   G·A − (G − 1)·mean_u A₋ᵤ, leaving out one unit at a time, removes that order.

Source: protocol 1, section 2.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["annealed_loss", "plain_loss", "unit_log_means"]


def unit_log_means(log_p: Float[Tensor, "draws tokens"], draws_a_unit: int) -> Float[Tensor, "units tokens"]:
    """log mean p of each unit of consecutive draws, in float64; an unfinished unit at the end is left out."""
    units = len(log_p) // draws_a_unit
    grouped = log_p[: units * draws_a_unit].double().reshape(units, draws_a_unit, -1)
    return torch.logsumexp(grouped, 1) - math.log(draws_a_unit)


def plain_loss(units: Float[Tensor, "units tokens"]) -> Float[Tensor, " tokens"]:
    """−log mean p over units, nats: too high for few units, and what the jackknife is judged by."""
    plain: Tensor = math.log(len(units)) - torch.logsumexp(units.double(), 0)
    return plain


def annealed_loss(units: Float[Tensor, "units tokens"]) -> Float[Tensor, " tokens"]:
    """Jackknifed −log mean p over units, nats.

    Raises:
        ValueError: if there are fewer than two units, which leave nothing to leave out.
    """
    count = len(units)
    if count < 2:
        raise ValueError(f"the jackknife needs at least 2 units, not {count}")
    units = units.double()
    plain = plain_loss(units)
    left_out = torch.stack(
        [
            math.log(count - 1) - torch.logsumexp(torch.cat([units[:u], units[u + 1 :]]), 0)
            for u in range(count)
        ]
    )
    jackknifed: Tensor = count * plain - (count - 1) * left_out.mean(0)
    return jackknifed
