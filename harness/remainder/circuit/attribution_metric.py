"""What a circuit is found for: one number a prompt, larger where the model does better.

- `answer`: log Σ_correct e^logit − log Σ_wrong e^logit, nats, the mean over a prompt's scored positions.
- `agreement`: −KL(clean prediction ‖ this one), nats, the mean over the same positions. On the clean run it
  is largest and has no gradient: of use for integrated gradients and for patching, not for EAP.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from remainder.task.prompts import PADDING, Prompts

__all__ = ["Metric", "agreement", "answer"]

Metric = Callable[[Tensor, Tensor, Prompts], Tensor]
"""Logits [rows, positions, vocabulary], those of the clean run, and the prompts; a number a prompt [rows]."""


def answer(
    logits: Float[Tensor, "rows pos vocabulary"],
    clean: Float[Tensor, "rows pos vocabulary"],
    prompts: Prompts,
) -> Float[Tensor, " rows"]:
    """How far the right tokens lead over the wrong ones, in nats; see the module.

    Args:
        logits: of the prompts.
        clean: of the clean run; not looked at.
        prompts: what is right and wrong.
    """
    scored = _scored(logits, prompts)
    right = _choices(prompts.correct, scored)
    wrong = _choices(prompts.wrong, scored)
    # No token is named wrong: all that are not right are.
    wrong = torch.where(wrong.any(-1, keepdim=True), wrong, ~right)
    return (_log_sum(scored, right) - _log_sum(scored, wrong)).mean(1)


def agreement(
    logits: Float[Tensor, "rows pos vocabulary"],
    clean: Float[Tensor, "rows pos vocabulary"],
    prompts: Prompts,
) -> Float[Tensor, " rows"]:
    """−KL(clean ‖ this) at the scored positions, in nats."""
    new = _scored(logits, prompts).log_softmax(-1)
    old = _scored(clean, prompts).detach().log_softmax(-1)
    return -(old.exp() * (old - new)).sum(-1).mean(1)


def _scored(logits: Tensor, prompts: Prompts) -> Float[Tensor, "rows scored vocabulary"]:
    flags = torch.tensor(prompts.scored, device=logits.device)
    return logits[flags].view(len(prompts), -1, logits.shape[-1])


def _choices(
    ids: Int64[np.ndarray, "rows scored choices"], like: Float[Tensor, "rows scored vocabulary"]
) -> Bool[Tensor, "rows scored vocabulary"]:
    """Which tokens are among the choices; padding is none."""
    places = torch.tensor(ids, device=like.device)
    size = like.shape[-1]
    found = torch.zeros(*like.shape[:2], size + 1, dtype=torch.bool, device=like.device)
    found.scatter_(2, torch.where(places == PADDING, size, places), True)
    return found[..., :size]


def _log_sum(logits: Tensor, which: Tensor) -> Float[Tensor, "rows scored"]:
    return logits.masked_fill(~which, -torch.inf).logsumexp(-1)
