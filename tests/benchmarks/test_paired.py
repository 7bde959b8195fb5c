"""What the same documents and the same noise are worth: variances of a difference, from committed records.

The time to a given half-width goes with the variance of a document's difference, so the ratio of variances is
the ratio of times. The pairs are all those of SAEs of one site of SmolLM2-135M in the archive of protocol 1.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from remainder.base.paths import project_root
from remainder.record.store import read_record

FOLDER = project_root() / "leaderboard/archive/1/results/smollm2-135m/resid-15/1"
WIDTH = 0.005  # nats


def per_token(values: pd.DataFrame, *by: str) -> pd.Series:
    """KL per scored token, by document or by document and draw."""
    sums = values.groupby(list(by))[["kl", "tokens"]].sum()
    found: pd.Series = sums["kl"] / sums["tokens"]
    return found


def tables(rung: str) -> dict[str, pd.DataFrame]:
    """Values of a rung on evaluation documents, by SAE."""
    found = {}
    for path in sorted(FOLDER.glob("*sae*/*.json")):
        record, values = read_record(path)
        if record.tier == "quick" and record.reference is None and rung in record.measurement.rungs:
            here = (values["split"] == "evaluation") & (values["rung"] == rung)
            found[record.submission.name] = values[here]
    return found


def compared(rung: str) -> dict[str, float]:
    """Over all pairs: ratios of variances, unpaired over paired, and what they come from."""
    values = tables(rung)
    figures: dict[str, list[float]] = {"ratio": [], "correlation": [], "drawn": [], "documents": []}
    for one, other in itertools.combinations(sorted(values), 2):
        a, b = per_token(values[one], "document").align(per_token(values[other], "document"), join="inner")
        paired = float((a - b).var())
        draws = per_token(values[one], "document", "draw") - per_token(values[other], "document", "draw")
        by_draw = draws.dropna().unstack()
        drawn = float((by_draw.var(axis=1) / by_draw.shape[1]).mean()) if by_draw.shape[1] > 1 else 0.0
        figures["ratio"].append(float(a.var() + b.var()) / paired)
        figures["correlation"].append(float(a.corr(b)))
        figures["drawn"].append(drawn / paired)
        figures["documents"].append((1.96 / WIDTH) ** 2 * paired)
    ratios = figures.pop("ratio")
    quantiles = np.quantile(ratios, [0, 0.25, 0.5, 0.75, 1])
    names = ("least", "quarter", "median", "three quarters", "most")
    return {
        **dict(zip(names, map(float, quantiles), strict=True)),
        **{name: float(np.median(found)) for name, found in figures.items()},
        "pairs": len(ratios),
    }


@pytest.mark.benchmark(group="paired")
@pytest.mark.parametrize("rung", ["raw", "full"])
def test_paired_differences(benchmark: Any, rung: str) -> None:
    found = benchmark.pedantic(compared, args=(rung,), rounds=1)
    benchmark.extra_info.update(found, rung=rung)
    assert found["median"] > 5
