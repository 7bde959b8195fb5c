"""Readings of a pass over prompts: losses, KL and answers, one row of the table for each prompt.

The loss is −log of the probability of the right tokens together; KL is to the clean model over the whole
vocabulary; for the answer see `task.prompts`. All are read at the scored positions only, whatever kind of
circuit was run.

Source: protocol 1, sections 2 and 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.circuit.attribution_metric import members
from remainder.errors import MeasurementError
from remainder.loading.behaviour import BehaviourFacts
from remainder.loading.prompts import PromptTask
from remainder.measure.checks import CIRCUIT_LIMIT
from remainder.measure.losses import kl_histogram
from remainder.measure.plan import Plan
from remainder.record.schema import BehaviourInfo, Check
from remainder.record.values import RAW_ONLY
from remainder.task.prompts import Prompts, first

__all__ = ["Logits", "Scores", "behaviour_of", "check_kl", "compare", "groups_of", "kl_of", "scored", "table"]


class Scores(NamedTuple):
    """Per prompt, sums over scored positions."""

    loss: list[float]
    kl: list[float]
    answer: list[float]
    top1: list[int]
    correct: list[int]
    kl_histogram: list[str]


def groups_of(loaded: PromptTask, plan: Plan) -> list[tuple[Prompts, Prompts]]:
    """Calibration and evaluation prompts of each template.

    Raises:
        MeasurementError: a template has fewer than two prompts to fit a covariance to.
    """
    calibration = first(loaded.prompts("calibration"), plan.calibration_windows)
    evaluation = first(loaded.prompts("evaluation"), plan.documents or plan.evaluation_windows)
    by_template = {group.template: group for group in calibration}
    pairs = []
    for group in evaluation:
        of_template = by_template.get(group.template)
        if of_template is None or len(of_template) < 2:
            raise MeasurementError(
                f"template {group.template} has {0 if of_template is None else len(of_template)} "
                "calibration prompts, and a covariance needs two",
                fix="measure on a larger tier, or give the task more fillers",
            )
        pairs.append((of_template, group))
    return pairs


def check_kl(name: str, kl: Float[Tensor, " scored"], note: str, before: Check | None) -> Check:
    """Check that two ways to one prediction agree on all templates so far; the worst case is recorded.

    Raises:
        MeasurementError: they do not.
    """
    value = max(float(kl.max()), 0.0 if before is None or before.value is None else before.value)
    if not value <= CIRCUIT_LIMIT:
        raise MeasurementError(
            f"check {name} failed: KL {value:.3g} nats, the limit is {CIRCUIT_LIMIT:g}",
            fix="this architecture cannot be measured as a graph; please report it",
        )
    return Check(passed=True, value=value, limit=CIRCUIT_LIMIT, note=note)


def behaviour_of(facts: BehaviourFacts | None) -> BehaviourInfo | None:
    """The behaviour of the model by itself, for a record; None where it was tried on no prompts."""
    if facts is None:
        return None
    kept = [part for part in facts.templates if part.answer_solved is not None]
    solved = sum(part.solved for part in kept)
    return BehaviourInfo(
        candidates=facts.candidates,
        solved=facts.solved,
        answer=facts.answer,
        answer_of_solved=sum(part.solved * (part.answer_solved or 0.0) for part in kept) / max(solved, 1),
    )


class Logits(NamedTuple):
    """Logits at scored positions, [prompts·scored, vocabulary], and the right and wrong tokens there."""

    log_probabilities: Float[Tensor, "scored vocabulary"]
    right: Bool[Tensor, "scored vocabulary"]
    wrong: Bool[Tensor, "scored vocabulary"]


def scored(logits: Float[Tensor, "prompts seen vocabulary"], prompts: Prompts, places: list[int]) -> Logits:
    """The rows that count, in float32."""
    mask = torch.from_numpy(prompts.scored[:, places]).to(logits.device)
    rows = logits[mask].float()
    correct, other = (ids.reshape(len(rows), -1) for ids in (prompts.correct, prompts.wrong))
    right = members(correct, rows)
    wrong = members(other, rows) if other.shape[-1] else ~right
    return Logits(rows.log_softmax(-1), right, wrong)


def kl_of(clean: Logits, other: Logits) -> Float[Tensor, " scored"]:
    """KL to the clean model, nats."""
    p = clean.log_probabilities
    return (p.exp() * (p - other.log_probabilities)).sum(-1).clamp_min(0)


def compare(clean: Logits, other: Logits, prompts: Prompts) -> Scores:
    """Sums over the scored positions of every prompt, in float64."""
    logp = other.log_probabilities
    inside = logp.masked_fill(~other.right, -math.inf).logsumexp(-1)
    outside = logp.masked_fill(~other.wrong, -math.inf).logsumexp(-1)
    most = logp.argmax(-1)
    kl = kl_of(clean, other).double().cpu()
    loss, answer = -inside.double().cpu(), (inside - outside).double().cpu()
    if not all(bool(torch.isfinite(part).all()) for part in (loss, kl, answer)):
        raise MeasurementError(
            "a loss, KL or answer is NaN or infinite", fix="the background's values are too large"
        )
    same = most == clean.log_probabilities.argmax(-1)
    hit = other.right.gather(1, most[:, None])[:, 0]

    def sums(part: Tensor) -> list[Any]:
        found: list[Any] = part.cpu().view(len(prompts), -1).sum(1).tolist()
        return found

    histograms = [kl_histogram(row.numpy()) for row in kl.view(len(prompts), -1)]
    return Scores(sums(loss), sums(kl), sums(answer), sums(same.long()), sums(hit.long()), histograms)


def table(prompts: Prompts, rung: str, draw: int, scores: Scores) -> Iterator[dict[str, Any]]:
    """One row a prompt; see `record.values`."""
    tokens = int(prompts.scored.sum(1)[0])
    for place, document in enumerate(prompts.documents):
        yield {
            "split": "evaluation",
            "document": document,
            "window": 0,
            "rung": rung,
            "draw": draw,
            "tokens": tokens,
            **{name: column[place] for name, column in scores._asdict().items()},
            **dict.fromkeys(("annealed", *RAW_ONLY), math.nan),
        }
