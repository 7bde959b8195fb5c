"""Arithmetic of the pass after the site, against the machine's own matrix product in the same rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from remainder.loading.open import open_task
from remainder.measure.losses import clean_pass, compared_pass

WINDOWS, SIZE, ROUNDS = 8, 2048, 5
BLOCKS = "blocks alone"
CLEAN = "clean pass: blocks, unembedding, losses, what is kept of the outputs"
SPLICED = "spliced pass: blocks, unembedding, losses and KL"


def operations(runner: Any, tokens: int, window: int) -> tuple[float, float]:
    """Floating-point operations of the blocks after the site, and of the unembedding."""
    config = runner.bridge.cfg
    blocks = [runner.bridge.blocks[i].original_component for i in range(runner._first, config.n_layers)]
    weights = {
        module.weight.data_ptr(): module.weight.numel()
        for block in blocks
        for module in block.modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor) and module.weight.ndim == 2
    }
    attention = 2 * window * config.n_heads * config.d_head * len(blocks)  # weights and sums of values
    return 2.0 * tokens * (sum(weights.values()) + attention), 2.0 * tokens * config.d_model * config.d_vocab


def cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.benchmark(group="rates")
@pytest.mark.parametrize("what", [BLOCKS, CLEAN, SPLICED])
def test_rate(benchmark: Any, what: str) -> None:
    torch.set_num_threads(1)
    loaded: Any = open_task("smollm2-135m/resid-15", device="cpu")
    runner = loaded.runner("float32")
    (batch,) = loaded.activations("evaluation", WINDOWS).batches(WINDOWS)
    inside, head = operations(runner, batch.inputs.numel(), batch.inputs.shape[1])
    one = torch.randn(SIZE, SIZE)

    def pass_() -> None:
        with torch.inference_mode():
            if what == BLOCKS:
                runner.suffix(batch.inputs, batch.prefix, batch.prefix.x_out)
            elif what == CLEAN:
                clean_pass(runner, batch)
            else:
                compared_pass(runner, clean, batch.prefix.x_out)

    with torch.inference_mode():
        clean = clean_pass(runner, batch)
    count = inside if what == BLOCKS else inside + head
    pass_()
    ratios, rates = [], []
    for _ in range(ROUNDS):
        product = 2 * SIZE**3 / cpu(lambda: one @ one)
        rates.append(count / cpu(pass_))
        ratios.append(rates[-1] / product)
    benchmark.pedantic(pass_, rounds=1)
    benchmark.extra_info.update(
        {"what": what, "GFLOP/s": statistics.median(rates) / 1e9, "of the machine": statistics.median(ratios)}
    )
