"""The noise floor of a board: do methods differ by more than retraining one of them moves it?

Records of several methods, each trained with several seeds, all on the same documents.

1. Spread of seeds: standard deviation of the score within methods, pooled, s_w² = mean over methods of their
   variances (weighted by degrees of freedom).
2. Spread of methods: standard deviation of the mean scores of methods, less what the seeds contribute to it,
   s_b² = max(var(means) − s_w² mean(1/seeds), 0) (one-way analysis of variance).
3. Ratio s_b / s_w: above 1, what separates methods is more than luck in training.
4. Ranks: for the first seed of every method, then the second, …, methods ordered by score; the share of
   neighbours whose paired difference over documents has a 95 % interval without 0. The same share among
   seeds of one method: differences that the documents resolve, but that another training would not repeat.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from remainder.errors import RecordError
from remainder.record.store import StoredRecord
from remainder.report.compare import compare_records

__all__ = ["NoiseFloor", "noise_floor"]

_SCORES = {"kl_raw": ("raw", "KL raw"), "kl_gaussian": ("full", "KL Gaussian")}
"""Rung and heading of each score, by its key in `remainder.report.compare`."""

Separable = Callable[[StoredRecord, StoredRecord, str], bool]


class NoiseFloor(NamedTuple):
    """One score, nats per token."""

    score: str
    means: Mapping[str, float]
    """Mean over seeds, by method."""
    deviations: Mapping[str, float]
    """Standard deviation over seeds, by method; NaN for a single seed."""
    seeds: Mapping[str, int]
    between_seeds: float
    between_methods: float
    ratio: float
    """`between_methods` over `between_seeds`."""
    separable: float
    """Share of adjacent ranks of methods that the documents tell apart."""
    separable_seeds: float
    """Share of pairs of seeds of one method that the documents tell apart."""


def noise_floor(records: Mapping[str, Sequence[StoredRecord]]) -> list[NoiseFloor]:
    """The noise floor of the raw and the Gaussian KL.

    Args:
        records: one record for each seed, by method.

    Raises:
        RecordError: there are fewer than two methods, none with two seeds, a record lacks a score, or records
            cannot be compared.
    """
    if len(records) < 2 or not any(len(each) > 1 for each in records.values()) or not all(records.values()):
        raise RecordError(
            "a noise floor takes two methods, one of them with two seeds", fix="name more records"
        )
    verdicts: dict[tuple[int, int], dict[str, bool]] = {}

    def separable(a: StoredRecord, b: StoredRecord, key: str) -> bool:
        pair = id(a), id(b)
        if pair not in verdicts:
            differences = compare_records(a, b).differences
            verdicts[pair] = {row.key: bool(row.separable) for row in differences}
        return verdicts[pair][key]

    return [_floor(records, key, separable) for key in _SCORES]


def _floor(records: Mapping[str, Sequence[StoredRecord]], key: str, separable: Separable) -> NoiseFloor:
    scores = {
        method: np.array([_score(one, key) for one in each], dtype=np.float64)
        for method, each in records.items()
    }
    counts = np.array([len(each) for each in scores.values()])
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in scores.values())
    within = squares / float((counts - 1).sum())
    means = np.array([each.mean() for each in scores.values()])
    between = max(float(means.var(ddof=1)) - within * float(np.mean(1 / counts)), 0.0)
    adjacent, same = [], []
    for seed in range(int(counts.min())):
        ranked = sorted(records, key=lambda method: float(scores[method][seed]))
        adjacent += [
            separable(records[a][seed], records[b][seed], key) for a, b in itertools.pairwise(ranked)
        ]
    for each in records.values():
        same += [separable(a, b, key) for a, b in itertools.combinations(each, 2)]
    return NoiseFloor(
        score=key,
        means={method: float(each.mean()) for method, each in scores.items()},
        deviations={
            method: float(each.std(ddof=1)) if len(each) > 1 else math.nan for method, each in scores.items()
        },
        seeds={method: len(each) for method, each in scores.items()},
        between_seeds=math.sqrt(within),
        between_methods=math.sqrt(between),
        ratio=math.sqrt(between / within) if within > 0 else math.inf,
        separable=float(np.mean(adjacent)),
        separable_seeds=float(np.mean(same)),
    )


def _score(stored: StoredRecord, key: str) -> float:
    rung, heading = _SCORES[key]
    metrics = stored.record.metrics.rungs.get(rung)
    if metrics is None or metrics.quenched.kl.value is None:
        raise RecordError(
            f"{stored.record.submission.name}: has no {heading}", fix=f"measure it with rung {rung}"
        )
    return metrics.quenched.kl.value
