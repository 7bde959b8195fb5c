"""What the two-halves runner saves: the suffix alone against a full pass with the same activations hooked in.

    make bench

Both give the same hidden states (see tests/repository/test_real_model.py); the ratio
of their times is the claim.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from remainder.loading.open import open_task
from remainder.model.bridge import BridgeRunner, Prefix

WINDOWS = 8


@pytest.fixture(scope="module")
def subject() -> tuple[BridgeRunner, torch.Tensor, Prefix]:
    loaded = open_task("smollm2-135m/resid-15", device="cpu")
    runner = loaded.runner("float32")
    tokens = torch.from_numpy(loaded.corpus.windows("calibration").first(WINDOWS).inputs)
    with torch.inference_mode():
        return runner, tokens, runner.prefix(tokens)


@pytest.mark.benchmark(group="spliced pass over 1,024 tokens, without the unembedding")
@pytest.mark.parametrize("way", ["suffix only", "full pass with a hook"])
def test_spliced_pass(benchmark: Any, subject: tuple[BridgeRunner, torch.Tensor, Prefix], way: str) -> None:
    runner, tokens, prefix = subject
    runner._skip = way == "suffix only"
    try:
        with torch.inference_mode():
            hidden = benchmark.pedantic(
                runner.suffix, args=(tokens, prefix, prefix.x_out), rounds=5, warmup_rounds=1
            )
    finally:
        runner._skip = True
    assert hidden.shape == (WINDOWS, tokens.shape[1], 576)
