"""Metrics for which circuits are found: one number per prompt, larger where the model does better.

- `answer`: log Σ_correct e^logit − log Σ_wrong e^logit, nats, the mean over a prompt's scored positions.
- `agreement`: −KL(clean prediction ‖ this one), nats, the mean over the same positions. On the clean run it
  is maximal and has no gradient, so it serves integrated gradients and patching, but not EAP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from remainder.task.prompts import PADDING, Prompts

__all__ = ["Metric", "agreement", "answer", "members", "seen_prompts"]

Metric = Callable[[Tensor, Tensor, Prompts], Tensor]
"""Maps logits [rows, positions, vocabulary], those of the clean run, and the prompts to numbers [rows]."""


def answer(
    logits: Float[Tensor, "rows pos vocabulary"],
    clean: Float[Tensor, "rows pos vocabulary"],
    prompts: Prompts,
) -> Float[Tensor, " rows"]:
    """The lead of the correct tokens over the wrong ones, in nats; see the module's text.

    Args:
        logits: logits of the prompts.
        clean: logits of the clean run; unused.
        prompts: the prompts, which name correct and wrong tokens.
    """
    scored = _scored(logits, prompts)
    right = members(prompts.correct, scored)
    wrong = members(prompts.wrong, scored)
    # If no token is named wrong, all that are not correct are wrong.
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


def members(
    ids: Int64[np.ndarray, "*rows choices"], like: Float[Tensor, "*rows vocabulary"]
) -> Bool[Tensor, "*rows vocabulary"]:
    """Mask of the tokens that are among the choices; padding is not a token."""
    places = torch.tensor(ids, device=like.device)
    size = like.shape[-1]
    # Padding marks a column beyond the vocabulary, which is cut off.
    mask = torch.zeros(*like.shape[:-1], size + 1, dtype=torch.bool, device=like.device)
    mask.scatter_(-1, torch.where(places == PADDING, size, places), True)
    return mask[..., :size]


def _log_sum(logits: Tensor, which: Tensor) -> Float[Tensor, "rows scored"]:
    return logits.masked_fill(~which, -torch.inf).logsumexp(-1)


def seen_prompts(prompts: Prompts, places: list[int]) -> Prompts:
    """The prompts restricted to outputs at `places`."""
    cut = {name: getattr(prompts, name)[:, places] for name in ("tokens", "counterfactual", "scored")}
    return replace(prompts, **cut)
