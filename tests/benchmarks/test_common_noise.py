"""What common random numbers are worth: the variance of a difference, with and without them.

Two sparse autoencoders of neighbouring k (the same weights, the 32 or the 28 largest codes kept), the
Gaussian residual of each, on the same documents with the same noise; against independent noise on the same
documents, and against independent noise on other documents. Beside it one SAE at noise amplitude 1 and .9.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from sae_lens import SAE

from remainder.base.paths import project_root
from remainder.interpretation.protocol import adapt
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.measure.kernels import FittedRung, score
from remainder.measure.losses import clean_pass
from remainder.record.rungs import COUPLED
from remainder.residual.calibration import Calibration
from remainder.residual.gaussian import Coupled
from remainder.residual.noise import NoiseKeys


class Largest:
    """Only the `k` largest codes of another interpretation."""

    def __init__(self, inner: Any, k: int) -> None:
        self.inner, self.k = inner, k

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        codes = self.inner.encode(x)
        kept = codes.topk(self.k, dim=-1)
        return torch.zeros_like(codes).scatter(-1, kept.indices, kept.values)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self.inner.decode(codes)
        return decoded


def gaps(loaded: LoadedTask, thing: Any, alpha: float, seed: int) -> pd.Series:
    """Gaussian gap per token of each evaluation document (one window), noise of this seed."""
    interpretation = adapt(thing, loaded.task.site.width, "sae")
    calibration = Calibration.empty(loaded.task.site.width)
    for batch in loaded.activations("calibration", 64).batches(8):
        places = NoiseKeys(15, batch.windows.documents, batch.windows.indices)
        _, estimate = interpretation.reconstruct(batch.prefix.x_in, batch.spliced)
        residual = batch.prefix.x_out.double() - estimate.double()
        calibration.update(places, estimate.double(), residual, batch.spliced)
    kernel = FittedRung("noisy", COUPLED, Coupled(calibration, alpha, 1.0), 2)
    runner = loaded.runner("bfloat16")
    rows: list[dict[str, Any]] = []
    for batch in loaded.activations("evaluation", 32).batches(8):
        clean = clean_pass(runner, batch)
        _, estimate = interpretation.reconstruct(batch.prefix.x_in, batch.spliced)
        places = NoiseKeys(seed, batch.windows.documents, batch.windows.indices)
        for new in score(runner, clean, [kernel], estimate, places):
            reference = clean.scores.loss
            rows += [{**row, "loss": row["loss"] - reference[i]} for i, row in enumerate(new)]
    sums = pd.DataFrame(rows).groupby("document")[["loss", "tokens"]].sum()
    per_token: pd.Series = sums["loss"] / sums["tokens"]
    return per_token


def report(name: str, one: pd.Series, other: pd.Series, other_noise: pd.Series) -> float:
    """Print the variances of a difference; gives the ratio that common numbers win."""
    common = np.var(one - other, ddof=1)
    noise = np.var(one - other_noise, ddof=1)
    apart = np.var(one, ddof=1) + np.var(other_noise, ddof=1)
    print(
        f"{name}: difference {float((one - other).mean()):.4f} nats; variance over independent noise and "
        f"documents {apart / common:.1f} times, over independent noise {noise / common:.1f} times"
    )
    return float(apart / common)


def test_common_noise_and_documents(benchmark: Any, capsys: Any) -> None:
    loaded = open_task("smollm2-135m/resid-15", device="cpu")
    sae = SAE.load_from_disk(str(project_root() / "baselines/topk-sae-32/weights")).to(dtype=torch.float32)
    with torch.inference_mode():
        wide = benchmark.pedantic(gaps, args=(loaded, Largest(sae, 32), 1.0, 15), rounds=1)
        narrow, narrow_apart = (gaps(loaded, Largest(sae, 28), 1.0, seed) for seed in (15, 99))
        weak, weak_apart = (gaps(loaded, Largest(sae, 32), 0.9, seed) for seed in (15, 99))
        with capsys.disabled():
            print()
            won = report("k 32 against 28", wide, narrow, narrow_apart)
            report("noise 1 against .9", wide, weak, weak_apart)
    assert won >= 5
