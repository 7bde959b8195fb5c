"""What the same documents and the same noise are worth: variances of a difference, from committed records.

The time to a given half-width goes with the variance of a document's difference, so the ratio of variances is
the ratio of times. The pairs are all those of SAEs of one site of SmolLM2-135M in the archive of protocol 1.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from remainder.base.paths import project_root
from remainder.record.store import read_record

FOLDER = project_root() / "leaderboard/archive/1/results/smollm2-135m/resid-15/1"
WIDTH = 0.005  # nats


def per_token(path: Path, rung: str) -> pd.Series:
    """KL of a rung per scored token, by document."""
    values = read_record(path).values
    rows = values[(values["split"] == "evaluation") & (values["rung"] == rung)]
    sums = rows.groupby("document")[["kl", "tokens"]].sum()
    found: pd.Series = sums["kl"] / sums["tokens"]
    return found


def compared(rung: str) -> dict[str, float]:
    """Ratios of variances, unpaired over paired, and the documents that ± WIDTH takes."""
    records = {}
    for path in sorted(FOLDER.glob("*sae*/*.json")):
        record = read_record(path).record
        if record.tier == "quick" and record.reference is None and rung in record.measurement.rungs:
            records[record.submission.name] = per_token(path, rung)
    ratios, documents = [], []
    for one, other in itertools.combinations(sorted(records), 2):
        a, b = records[one].align(records[other], join="inner")
        paired = float((a - b).var())
        ratios.append(float(a.var() + b.var()) / paired)
        documents.append((1.96 / WIDTH) ** 2 * paired)
    quantiles = np.quantile(ratios, [0, 0.25, 0.5, 0.75, 1])
    names = ("least", "quarter", "median", "three quarters", "most")
    return {
        **dict(zip(names, map(float, quantiles), strict=True)),
        "pairs": len(ratios),
        "documents": float(np.median(documents)),
    }


@pytest.mark.benchmark(group="paired")
@pytest.mark.parametrize("rung", ["raw", "full"])
def test_paired_differences(benchmark: Any, rung: str) -> None:
    found = benchmark.pedantic(compared, args=(rung,), rounds=1)
    benchmark.extra_info.update(found, rung=rung)
    assert found["median"] > 5
