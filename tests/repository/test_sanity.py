"""Constraints of the sanity checks hold while a dictionary is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remainder.base.paths import project_root
from remainder.task.script import load_script

STUDY = project_root() / "leaderboard" / "studies" / "sanity"


@pytest.mark.slow
@pytest.mark.parametrize("constraint", ["frozen-decoder", "soft-frozen-decoder", "frozen-encoder"])
def test_a_constraint_holds_in_training(constraint: str) -> None:
    train = load_script(STUDY / "train.py")
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(2048, 8)).astype(np.float32)) + 1
    recipe = train.Recipe("topk", 16, 2, 0.0, 200, 64, 0, constraint)
    kept, _ = train.trained(rows, recipe, (0, 200))
    # Lengths are folded into the encoder when a dictionary is stored: directions are what can be held.
    with torch.no_grad():
        decoders = torch.nn.functional.cosine_similarity(kept[0].W_dec, kept[200].W_dec, dim=1)
        encoders = torch.nn.functional.cosine_similarity(kept[0].W_enc, kept[200].W_enc, dim=0)
    least = {"decoder": float(decoders.min()), "encoder": float(encoders.min())}
    if constraint == "frozen-decoder":
        assert least["decoder"] > 1 - 1e-5
        assert least["encoder"] < 0.99
    if constraint == "soft-frozen-decoder":
        assert train.LEAST_COSINE - 1e-4 < least["decoder"] < 0.99
    if constraint == "frozen-encoder":
        assert least["encoder"] > 1 - 1e-5
        assert least["decoder"] < 0.99
