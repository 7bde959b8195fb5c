"""The page on sanity checks is written from its rows, and the rows from the scripts beside them."""

from __future__ import annotations

import hashlib
import json
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from remainder.base.paths import project_root
from remainder.task.script import load_script

STUDY = project_root() / "leaderboard" / "studies" / "sanity"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return load_script(project_root() / "docs" / "examples" / "sanity.py")


def test_rows_name_the_scripts_that_made_them() -> None:
    provenance = json.loads((STUDY / "rows.json").read_text(encoding="utf-8"))
    for name, digest in provenance["scripts"].items():
        assert hashlib.sha256((STUDY / name).read_bytes()).hexdigest() == digest, name


def test_scores_follow_from_sums_over_documents(page: ModuleType) -> None:
    """In every row; the others were held against its record when it was measured."""
    rows = [*page.rows_of("wiki"), *page.rows_of("steps")]
    for row in rows:
        sums = {name: sum(values) for name, values in row["columns"].items()}
        clean, raw, zero = (sums[name] / sums["tokens"] for name in ("clean", "raw", "zero"))
        found = row["scores"]
        assert found["gap_raw"] == pytest.approx(raw - clean, rel=1e-4, abs=1e-6)
        assert found["ce_recovered"] == pytest.approx((zero - raw) / (zero - clean), rel=1e-3, abs=1e-3)
        assert found["explained_variance"] == pytest.approx(1 - sums["residual"] / sums["centred"], abs=1e-4)


def test_the_world_s_correlations_are_spearman_s(page: ModuleType) -> None:
    assert len(page.rows_of("synthetic")) == 90
    for one in page.correlations("mcc"):
        rows = [row for row in page.rows_of("synthetic") if row["scores"][one.key] is not None]
        truth = [row["truth"]["mcc"] for row in rows]
        if page.ALL[one.key].better != "one":
            sign = 1 if page.ALL[one.key].better == "large" else -1
            expected = spearmanr([sign * row["scores"][one.key] for row in rows], truth).statistic
            assert one.value == pytest.approx(expected, abs=1e-9)
        assert one.low <= one.value <= one.high


@pytest.mark.slow
def test_the_page_is_that_of_the_rows(page: ModuleType) -> None:
    """What `python docs/examples/sanity.py` writes is what stands there."""
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.words.filled(text, page.blocks()) == text


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
