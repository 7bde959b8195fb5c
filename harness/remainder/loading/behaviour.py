"""Prompts of a behaviour that a model solves.

1. A behaviour's candidates (`remainder.task.behaviour`) are run once through the float32 model, prompts and
   counterfactuals.
2. A prompt is *solved* if its answer is above 0 (right tokens together outweigh wrong ones) and the most
   likely one of all named tokens is right. Prompts that are not solved are left out.
3. A template of which the model does not solve clearly more than half (at least 55 %, and a one-sided
   binomial test against chance at 1 %) is left out whole: a circuit of what a model does not do has no
   meaning.

Candidates always run in batches of the same size, whichever the task has, so that the choice is reproducible.

Source: protocol 1, section 8; that only what a model does is explained: Wang et al., "Interpretability in the
Wild", 2023.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from remainder.base.cache import Progress, silent
from remainder.circuit.attribution_metric import answer, seen_prompts
from remainder.task.behaviour import Candidates
from remainder.task.prompts import PADDING, Prompts
from remainder.task.text import Split

__all__ = [
    "Answers",
    "BehaviourFacts",
    "Groups",
    "TemplateFacts",
    "facts_of",
    "key",
    "prompts_hash",
    "try_prompts",
]

Groups = Mapping[Split, tuple[Prompts, ...]]

Answers = dict[str, NDArray[Any]]
"""Arrays by split, template and name (see `key`): `answer` and `counterfactual` in nats [prompts], and
`solved` [prompts]."""

Run = Callable[[torch.Tensor, list[int]], torch.Tensor]
"""Logits [prompts, seen, vocabulary] of tokens [prompts, positions], at some of the positions."""

_TRIED = 32  # candidates in one forward pass
_LEAST = 0.55
"""Share of a template's candidates that a model must solve."""
_LEVEL = 0.01


class TemplateFacts(NamedTuple):
    """The results of a model on a template, over all splits. Answers are in nats, means over prompts."""

    template: str
    candidates: int
    solved: int
    answer: float
    """Mean over all candidates."""
    answer_solved: float | None
    """Mean over the solved ones; None, if there are none."""
    answer_counterfactual: float | None
    """Mean over counterfactuals of the solved ones, by what is right for the prompt: below 0 where the
    counterfactual flips it."""
    kept: bool
    """Whether the template is used."""

    @property
    def accuracy(self) -> float:
        """Share that is solved."""
        return self.solved / self.candidates


class BehaviourFacts(NamedTuple):
    """The results of a model on a behaviour."""

    templates: tuple[TemplateFacts, ...]
    left_out: Mapping[str, tuple[str, ...]]
    """Words that are not one token of the model's tokenizer, by list."""
    unaligned: int
    """Prompts whose tokens do not fall on their template as those of most do."""

    @property
    def candidates(self) -> int:
        """Prompts tried."""
        return sum(each.candidates for each in self.templates)

    @property
    def solved(self) -> int:
        """Prompts solved."""
        return sum(each.solved for each in self.templates)

    @property
    def accuracy(self) -> float:
        """Share that is solved."""
        return self.solved / self.candidates

    @property
    def answer(self) -> float:
        """Mean over all candidates, nats."""
        return sum(each.answer * each.candidates for each in self.templates) / self.candidates


def prompts_hash(groups: Groups) -> str:
    """SHA-256 over templates, documents and all arrays of all splits."""
    digest = hashlib.sha256()
    for split in sorted(groups):
        for group in groups[split]:
            digest.update(f"{split}|{group.template}|{'|'.join(group.documents)}|".encode())
            for array in (group.tokens, group.counterfactual, group.scored, group.correct, group.wrong):
                digest.update(f"{array.dtype}|{array.shape}|".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def key(split: Split, group: Prompts, name: str) -> str:
    """Name of an array of `Answers`."""
    return f"{split}/{group.template}/{name}"


@torch.inference_mode()
def try_prompts(
    run: Run, groups: Groups, device: torch.device, name: str, progress: Progress | None
) -> Answers:
    """Answers of a model to prompts and their counterfactuals.

    Args:
        run: gives the logits of tokens [prompts, positions] at the positions that it is asked for.
    """
    total = sum(len(group) for split in groups.values() for group in split)
    done = 0
    found: dict[str, list[NDArray[Any]]] = {}
    for split, all_of_split in groups.items():
        for group in all_of_split:
            places = np.flatnonzero(group.scored.any(0)).tolist()
            for start in range(0, len(group), _TRIED):
                part = group.take(slice(start, start + _TRIED))
                logits = run(torch.from_numpy(part.tokens).to(device), places)
                other = run(torch.from_numpy(part.counterfactual).to(device), places)
                seen = seen_prompts(part, places)
                answers = answer(logits, logits, seen)
                solved = (answers > 0) & _most_likely(logits, seen)
                values = {"answer": answers, "counterfactual": answer(other, other, seen), "solved": solved}
                for kind, value in values.items():
                    found.setdefault(key(split, group, kind), []).append(value.cpu().numpy())
                done += len(part)
                (progress or silent)(f"trying the prompts of {name}", done, total)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _most_likely(logits: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """Whether the likeliest of all named tokens is right at every scored position, for each prompt."""
    flags = torch.from_numpy(prompts.scored).to(logits.device)
    scored = logits[flags].view(len(prompts), -1, logits.shape[-1])

    def best(ids: NDArray[np.int64]) -> torch.Tensor:
        places = torch.from_numpy(ids).to(logits.device)
        return scored.gather(-1, places.clamp(min=0)).masked_fill(places == PADDING, -torch.inf).amax(-1)

    right = best(prompts.correct)
    if prompts.wrong.shape[-1]:
        return (right > best(prompts.wrong)).all(1)
    return (right == scored.amax(-1)).all(1)


def facts_of(groups: Groups, results: Answers, candidates: Candidates | None) -> BehaviourFacts:
    """The results of a model on prompts; templates may be left out if `candidates` are given."""
    names = dict.fromkeys(group.template for split in groups.values() for group in split)
    found = []
    for name in names:
        own = [(split, group) for split in groups for group in groups[split] if group.template == name]
        answers, others, solved = (
            np.concatenate([results[key(split, group, kind)] for split, group in own])
            for kind in ("answer", "counterfactual", "solved")
        )
        count, hits = len(solved), int(solved.sum())
        clearly = binomtest(hits, count, 0.5, alternative="greater").pvalue < _LEVEL
        found.append(
            TemplateFacts(
                name,
                count,
                hits,
                float(answers.mean()),
                float(answers[solved].mean()) if hits else None,
                float(others[solved].mean()) if hits else None,
                candidates is None or (clearly and hits / count >= _LEAST),
            )
        )
    left_out = {} if candidates is None else candidates.left_out
    return BehaviourFacts(tuple(found), left_out, 0 if candidates is None else candidates.unaligned)
