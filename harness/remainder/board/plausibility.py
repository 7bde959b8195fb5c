"""Whether what no per-document value gives could be true: cost, fit, Gaussianity, the field's metrics.

1. Numbers within their ranges, and intervals around their numbers.
2. Numbers that follow from others of the record: scores from losses, bits of a circuit from its edges, edges
   and counts of a histogram, metrics that two peers share.

Within these bounds a forged number passes: see docs/threats.md. Every function yields faults: what was found,
and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from remainder.record.compat import PeerMetrics
from remainder.record.metrics import Gaussianity, NullTest
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.values import of_split

__all__ = ["check_compat", "check_cost", "check_gaussianity"]

_ROUNDING = 1e-6  # what six digits and sums in another order may move, relative
_ROWS_A_CELL = 30
_FEWEST_SURROGATES = 50
_SHARED_BY_PEERS = (
    "ce_loss_without_sae",
    "ce_loss_with_ablation",
    "kl_div_with_ablation",
    "explained_variance_legacy",
    "cossim",
    "l2_norm_in",
    "l2_norm_out",
    "l2_ratio",
    "relative_reconstruction_bias",
    "l0",
)


def check_cost(record: Record) -> Iterator[str]:
    """Complexity and calibration outside of their ranges."""
    cost, fit = record.complexity, record.calibration
    live, bits, features = cost.live_features.value, cost.bits_per_token.value, cost.features
    if live is not None and (live < 0 or live % 1 or (features is not None and live > features)):
        yield f"complexity.live_features: {live:g} of {features}"
    if bits is not None and bits < 0:
        yield f"complexity.bits_per_token: {bits:g} bits"
    if (lone := cost.lone_code_sets) is not None:
        yield from _bare(lone, "complexity.lone_code_sets")
        if (lone.value is None) != (cost.coding is None) or not 0 <= (lone.value or 0) <= 1:
            yield f"complexity.lone_code_sets: {lone.value} of the tokens"
    explained = record.metrics.reconstruction.explained_variance.value
    if bits == 0 and explained is not None and explained > _ROUNDING:
        yield (
            f"complexity.bits_per_token: 0, and {explained:g} of the variance is explained: what no code "
            "carries reaches the reconstruction another way"
        )
    yield from _circuit_sizes(record)
    ranges = {
        "documents": (fit.documents, 0 if record.is_unfitted else 1, fit.tokens),
        "dimension": (fit.dimension, 1, math.inf),
        "shrinkage": (fit.shrinkage, 0, 1),
        "oas": (fit.oas, 0, 1),
        "held_out_mahalanobis": (fit.held_out_mahalanobis, 0, math.inf),
        # Of circuits, of the prompts' deviations: their values over all positions have more dimensions.
        "rank": (fit.rank, 0, fit.documents - 1 if record.is_of_circuits else fit.dimension),
        "bank_rows": (fit.bank_rows, 1, fit.tokens),
        "cells": (fit.cells, 1, max((fit.bank_rows or fit.tokens) / _ROWS_A_CELL, 1)),
        "cells_explained": (fit.cells_explained, -math.inf, 1),
    }
    yield from _bare(cost.live_features, "complexity.live_features")
    yield from _around(cost.bits_per_token, "complexity.bits_per_token")
    for name, (value, low, high) in ranges.items():
        if value is not None and not low <= value <= high:
            yield f"calibration.{name}: {value:g}, outside of {low:g} to {high:g}"


def _circuit_sizes(record: Record) -> Iterator[str]:
    """Whether the bits of a circuit are log2 C(E, k) of its k of E edges (of features: nodes)."""
    edges = record.complexity.features
    of_features = record.submission.kind == "feature-circuit"
    what = "nodes" if of_features else "edges"
    for name, size in (record.complexity.circuits or {}).items():
        place = f"complexity.circuits.{name}"
        if (size.edges is None) != of_features or (size.errors is None) == of_features:
            yield f"{place}: a {record.submission.kind} has {size.edges} edges and {size.errors} errors"
            continue
        if edges is None or not 0 <= size.kept <= edges or size.nodes < 0:
            yield f"{place}: {size.kept} of {edges} {what}, {size.nodes} nodes"
            continue
        if size.errors is not None and not 0 <= size.errors <= size.nodes:
            yield f"{place}.errors: {size.errors} of {size.nodes} nodes"
        # Not by math.comb: of numbers that anybody may have written it could take hours.
        parts = math.lgamma(size.kept + 1) + math.lgamma(edges - size.kept + 1)
        bits = (math.lgamma(edges + 1) - parts) / math.log(2)
        if not math.isclose(size.bits, bits, rel_tol=1e-5, abs_tol=1e-6):
            yield f"{place}.bits: {size.bits:g}, log2 C({edges}, {size.kept}) is {bits:g}"


def check_gaussianity(record: Record, values: pd.DataFrame) -> Iterator[str]:
    """Tests of Gaussianity that contradict the rest of the record, or themselves."""
    found = record.metrics.gaussianity
    if found is None:
        return
    place = "metrics.gaussianity"
    if found.rank != record.calibration.rank:
        yield f"{place}.rank: {found.rank}, calibration.rank is {record.calibration.rank}"
    if found.surrogates < _FEWEST_SURROGATES:
        yield f"{place}.surrogates: {found.surrogates}, at least {_FEWEST_SURROGATES} are drawn"
    for name, test in _null_tests(found):
        if test.null_low > test.null_high:
            yield f"{place}.{name}: null from {test.null_low:g} to {test.null_high:g}"
        if name.startswith("directions.") and (test.null_low != 0 or test.value < 0):
            yield f"{place}.{name}: a size, and its null begins at 0; found {test.value:g}, {test.null_low:g}"
    for kind, tests in found.directions.items():
        if tests.directions < 1:
            yield f"{place}.directions.{kind}.directions: {tests.directions}"
    for name in ("radial_gain", "linear_gain"):
        yield from _around(getattr(found, name), f"{place}.{name}")
    edges, counts = np.array(found.radii.edges), found.radii.counts
    if len(edges) != len(counts) + 1 or len(counts) < 1:
        yield f"{place}.radii: {len(edges)} edges for {len(counts)} bins"
    elif not np.allclose(edges, np.linspace(edges[0], edges[-1], len(edges)), rtol=1e-5, atol=0):
        yield f"{place}.radii.edges: are not equally far apart"
    spliced = of_split(values)["spliced"].sum()
    if min(counts, default=0) < 0 or sum(counts) != spliced:
        yield f"{place}.radii.counts: {sum(counts)} rows, {spliced:g} tokens were spliced"


def check_compat(record: Record) -> Iterator[str]:
    """The field's own metrics, where one follows from others."""
    found = record.compat
    if found is None:
        return
    lens, bench, learning = found.saelens, found.saebench, found.dictionary_learning
    for name, peer in (("saelens", lens), ("saebench", bench)):
        if peer is None:
            continue
        place = f"compat.{name}"
        if peer.tokens < 1:
            yield f"{place}.tokens: {peer.tokens}"
        yield from _score(
            peer.ce_loss_score,
            f"{place}.ce_loss_score",
            peer.ce_loss_with_ablation,
            peer.ce_loss_with_sae,
            peer.ce_loss_without_sae,
        )
        zero = Number.bare(0.0, "of the clean model itself")
        yield from _score(
            peer.kl_div_score,
            f"{place}.kl_div_score",
            peer.kl_div_with_ablation,
            peer.kl_div_with_sae,
            zero,
        )
        yield from _all_around(peer, place)
    if bench is not None and bench.mse.value is not None:
        yield f"compat.saebench.mse: {bench.mse.value:g}; it depends on the batch and is not given"
    if lens is not None and bench is not None:
        yield from _same_tokens(lens, bench)
    if learning is not None:
        yield from _score(
            learning.frac_recovered,
            "compat.dictionary_learning.frac_recovered",
            learning.loss_zero,
            learning.loss_reconstructed,
            learning.loss_original,
        )
        yield from _all_around(learning, "compat.dictionary_learning")
    for bins, number in (found.mdl_bits or {}).items():
        yield from _bare(number, f"compat.mdl_bits.{bins}")
        if number.value is not None and number.value < 0:
            yield f"compat.mdl_bits.{bins}: {number.value:g} bits"


def _same_tokens(lens: PeerMetrics, bench: PeerMetrics) -> Iterator[str]:
    """SAELens and SAEBench, which differ in what they leave out."""
    if lens.tokens == bench.tokens:  # then both count the same tokens
        for name in _SHARED_BY_PEERS:
            if getattr(lens, name) != getattr(bench, name):
                yield f"compat: saelens.{name} and saebench.{name} differ on the same tokens"
    elif lens.tokens > bench.tokens:
        yield f"compat: saelens.tokens {lens.tokens}, saebench leaves out fewer and has {bench.tokens}"


def _null_tests(found: Gaussianity) -> Iterator[tuple[str, NullTest]]:
    yield "radial_kurtosis", found.radial_kurtosis
    yield "maximum_kurtosis", found.maximum_kurtosis
    for kind, tests in found.directions.items():
        for name in ("skewness", "kurtosis", "negentropy"):
            yield f"directions.{kind}.{name}", getattr(tests, name)


def _score(number: Number, place: str, worst: Number, spliced: Number, best: Number) -> Iterator[str]:
    """Whether a score is (worst − spliced) / (worst − best), as far as six digits can tell."""
    parts = (number.value, worst.value, spliced.value, best.value)
    if None in parts:
        return
    value, high, middle, low = (float(part) for part in parts if part is not None)
    # In this form small denominators blow nothing up.
    if abs(value * (high - low) - (high - middle)) > 5 * _ROUNDING * max(abs(high), abs(middle), abs(low)):
        yield f"{place}: {value:g}, the losses beside it give {(high - middle) / (high - low or 1):g}"


def _all_around(metrics: PeerMetrics | Any, place: str) -> Iterator[str]:
    for name, number in metrics:
        if isinstance(number, Number):
            yield from _around(number, f"{place}.{name}")


def _around(number: Number, place: str) -> Iterator[str]:
    """Whether an interval holds its number."""
    if (number.low is None) != (number.high is None) or (number.value is None and number.low is not None):
        yield f"{place}: half an interval"
        return
    if number.value is None or number.low is None or number.high is None:
        return
    if not number.low <= number.value <= number.high:
        yield f"{place}: {number.value:g} lies outside of its interval {number.low:g} to {number.high:g}"


def _bare(number: Number, place: str) -> Iterator[str]:
    """Whether a number that is counted once has no interval."""
    if number.low is not None or number.high is not None:
        yield f"{place}: has an interval, {number.low} to {number.high}, and is counted once"
