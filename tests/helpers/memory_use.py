"""Measure a random model in a process of its own, and print the memory that it takes: see test_memory.py.

python tests/helpers/memory_use.py WINDOWS VOCABULARY LATENTS SAES RUNG
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import BOS, EOS, VOCABULARY, make_task, save_model
from together import evaluate_together
from transformers import AutoModelForCausalLM, LlamaConfig

from remainder.api import Result
from remainder.base.memory import most_held
from remainder.loading.adapt import StoredModel
from remainder.loading.site import LanguageTask, open_on
from remainder.task.spec import Site, SplitSpec, Tier
from remainder.task.text import Corpus

WIDTH, WINDOW = 256, 128


class RandomSae:
    """Weights of the shape of an SAE, drawn at random; the eight largest codes are kept."""

    def __init__(self, latents: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(latents, WIDTH, generator=generator) / WIDTH**0.5

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        codes = x @ self.weight.T
        kept = codes.topk(8, dim=-1)
        return torch.zeros_like(codes).scatter(-1, kept.indices, kept.values)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.weight


def loaded_task(windows: int, vocabulary: int, folder: Path) -> LanguageTask:
    """A task on a random Llama of four layers, a document of two windows for each that is evaluated."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    torch.manual_seed(0)
    save_model(AutoModelForCausalLM.from_config(config), folder)
    hook, number = "blocks.2.hook_resid_pre", windows + 32
    task = make_task(folder)
    tier = Tier(evaluation_windows=windows, calibration_windows=16, fit_windows=8, pairs=1, dtype="float32")
    assert task.corpus is not None
    task = task.model_copy(
        update={
            "corpus": task.corpus.model_copy(update={"window": WINDOW}),
            "splits": SplitSpec(seed=3, evaluation=windows, calibration=16),
            "site": Site(hook_in=hook, hook_out=hook, width=WIDTH),
            "tiers": {"quick": tier},
        }
    )
    ids = np.random.default_rng(0).integers(3, VOCABULARY, number * 2 * WINDOW).astype(np.int32)
    bounds = np.arange(number + 1, dtype=np.int64) * 2 * WINDOW
    names = tuple(f"page-{i}" for i in range(number))
    corpus = Corpus(task.corpus, task.splits, ids, bounds, names, names)
    return open_on(task, StoredModel(task.model, folder), corpus, torch.device("cpu"))


def main(windows: int, vocabulary: int, latents: int, saes: int, rung: str) -> None:
    """Print the bytes with the model loaded, and the most that measuring took."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        loaded: Any = loaded_task(windows, vocabulary, Path(folder))
        loaded.runner("float32")
        before = most_held()
        found = evaluate_together(loaded, [RandomSae(latents, i) for i in range(saes)], rungs=(rung,))
        assert all(isinstance(each, Result) for each in found), found
        print(before, most_held())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), sys.argv[5])
