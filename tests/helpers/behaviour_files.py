"""A behaviour that a tiny random model shows, and the folder of a task of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny
import torch
from transformers import AutoModelForCausalLM

FILLERS = range(10, 70)
BEHAVIOUR = """
title = "Words"
templates = [
  {{ name = "short", text = "w3 {{a:n}} w4 {{b:n}} w5", counterfactual = "w3 {{c:n}} w4 {{b}} w5" }},
  {{ name = "long", text = "w6 {{a:n}} w7 w8 {{b:n}} w9", counterfactual = "w6 {{c:n}} w7 w8 {{b}} w9" }},
]
variants = [{{ correct = {correct}, wrong = {wrong} }}]
fillers = {{ n = {fillers} }}
"""
TOML = """
version = "1-A"
title = "Words"
description = "For tests."
seed = 5
rungs = ["raw", "full"]
site = {{ hook_in = "blocks.3.hook_out", hook_out = "blocks.3.hook_out", width = 16 }}

[model]
name = "tiny"
licence = "MIT"
{model}

[circuit]
{circuit}

[tiers.quick]
evaluation_windows = {quick}
calibration_windows = {quick}
fit_windows = 2
pairs = 1
dtype = "float32"

[tiers.standard]
evaluation_windows = {standard}
calibration_windows = 4
fit_windows = 2
pairs = 1
dtype = "float32"
"""


class Lead(NamedTuple):
    """How far one token leads over another after prompts of both templates."""

    right: int
    wrong: int
    short: float
    """Share of prompts on which `right` is ahead."""
    long: float


@cache
def reference() -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny.model_folder()).eval()


@torch.no_grad()
def logits(tokens: Any) -> torch.Tensor:
    """At the last position, from transformers."""
    found: torch.Tensor = reference()(torch.as_tensor(tokens)).logits[:, -1].double()
    return found


@cache
def leads() -> tuple[Lead, ...]:
    """Of all pairs of tokens, on random prompts of both templates."""
    generator = np.random.default_rng(0)
    pairs = generator.choice(FILLERS, (64, 2))
    values = []
    for words in ([3, None, 4, None, 5], [6, None, 7, 8, None, 9]):
        rows = np.tile([tiny.BOS, *(word or 0 for word in words)], (len(pairs), 1))
        rows[:, [1 + place for place, word in enumerate(words) if word is None]] = pairs
        values.append(logits(rows))
    found = []
    for right in range(3, tiny.VOCABULARY):
        for wrong in range(3, tiny.VOCABULARY):
            ahead = [float((value[:, right] > value[:, wrong]).double().mean()) for value in values]
            found.append(Lead(right, wrong, *ahead))
    return tuple(found)


def pair(fits: Callable[[Lead], bool]) -> Lead:
    """The first pair of tokens that is as wanted."""
    return next(lead for lead in leads() if lead.right != lead.wrong and fits(lead))


def mostly() -> Lead:
    """A pair that the model gets right mostly, not always."""
    return pair(lambda lead: 0.75 < lead.short < 0.95 and 0.75 < lead.long < 0.95)


def write(folder: Path, lead: Lead, *, circuit: str = "", quick: int = 4, standard: int = 6) -> Path:
    place = folder / "mine" / "words"
    place.mkdir(parents=True, exist_ok=True)
    answers = {"correct": f'["w{lead.right}"]', "wrong": f'["w{lead.wrong}"]'}
    words = "[" + ", ".join(f'"w{i}"' for i in FILLERS) + "]"
    (place / "words.toml").write_text(BEHAVIOUR.format(fillers=words, **answers))
    lines = f'behaviour = "words.toml"\nseed = 2\nbos = {tiny.BOS}\ncandidates = 40\n{circuit}'
    model = f'hub = "{tiny.model_folder()}"'
    (place / "task.toml").write_text(TOML.format(model=model, circuit=lines, quick=quick, standard=standard))
    return place
