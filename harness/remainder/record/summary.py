"""The metrics of a record: a pure function of the per-document values.

Windows of a document are summed and draws averaged first; the document is the unit of resampling, and all
metrics share the same resamples. Losses, gaps and KL are nats per scored token; the gap is signed, and on the
same tokens as the clean loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from remainder.errors import MeasurementError
from remainder.record.bath import annealed_less, bath_of
from remainder.record.circuit_summary import AT, circuit_metrics
from remainder.record.coding import coding_metrics, step_bits
from remainder.record.couplings import fit_couplings, grid_of
from remainder.record.description import description_metrics
from remainder.record.intervals import Bootstrap, Estimate, Ratio
from remainder.record.metrics import (
    AnnealedMetrics,
    CalibrationSpread,
    CleanMetrics,
    Couplings,
    GaussianRatio,
    Metrics,
    QuenchedMetrics,
    ReconstructionMetrics,
    RungMetrics,
)
from remainder.record.number import Number
from remainder.record.orders import orders_of
from remainder.record.ratio import gaussian_ratio, ratio_parts
from remainder.record.rungs import CODED
from remainder.record.schema import CodingInfo
from remainder.record.telescope import conditional_telescope, perturbative_fit, telescope
from remainder.record.values import (
    KEY,
    Totals,
    annealed_totals,
    canonical_values,
    column,
    document_totals,
    gap,
    of_split,
    pooled,
)

__all__ = [
    "Summaries",
    "explained_variance",
    "histogram_quantile",
    "l0",
    "summaries_of",
    "summarise",
]

ANNEALED_UNITS = 8
ANNEALED_SHARE = 0.1
"""An annealed loss needs so many independent draws, and may move by no larger share with the jackknife: its
bias was below 3 % then, with Gaussian logits and two-point noise (docs/intervals.md)."""

BINS_PER_DECADE = 20
LOWEST_BIN = -160
"""Holds every KL up to 1e-8 nats; a quantile in it is known only as an upper bound."""


def summarise(values: pd.DataFrame, *, seed: int) -> Metrics:
    """All metrics of a table of per-document values (see `measure.values`).

    Args:
        values: one row per (document, window, rung, draw), in any order.
        seed: of the bootstrap.

    Raises:
        MeasurementError: the table is incomplete, or holds a number that is not finite.
    """
    return summaries_of(canonical_values(values), seed=seed).metrics


class Summaries(NamedTuple):
    """All that a record states of its values."""

    metrics: Metrics
    complexity: dict[str, Number]
    """Fields of `Complexity`, by name: those that the values give."""


def summaries_of(
    table: pd.DataFrame, *, seed: int, coding: CodingInfo | None = None, best: str | None = None
) -> Summaries:
    """Summarise a table that is canonical already.

    Args:
        coding: how codes were quantised, if they are paid for.
        best: the conditional sampler that the calibration chose.
    """
    totals = document_totals(table)
    clean = totals["clean"]
    if column(clean, "tokens").sum() == 0:
        raise MeasurementError(
            "no token is scored", fix="give the task longer windows or fewer masked positions"
        )
    bootstrap = Bootstrap(len(clean), seed=seed)
    counted = {"l0": l0(totals)}
    if coding is not None:
        counted["bits_per_token"] = step_bits(totals, coding.steps[CODED])
    return Summaries(
        _metrics(bootstrap, totals, table, seed=seed, best=best),
        {name: Number.of_ratio(bootstrap, ratio) for name, ratio in counted.items()},
    )


def _metrics(
    bootstrap: Bootstrap, totals: Totals, table: pd.DataFrame, *, seed: int, best: str | None
) -> Metrics:
    # Of all columns only these are read row by row, and choosing rows copies every one.
    columns = [
        name for name in (*KEY, "tokens", "kl_histogram", "annealed", "annealed_plain") if name in table
    ]
    narrow = dict(iter(of_split(table[columns]).groupby("rung")))
    rungs = {
        rung: _rung(bootstrap, totals, rung, narrow[rung])
        for rung in totals
        if rung != "clean" and AT not in rung
    }
    gaps = {rung: ratio for rung in rungs if isinstance(ratio := gap(totals, rung), Ratio)}
    return Metrics(
        clean=CleanMetrics(
            loss=Number.of_ratio(bootstrap, pooled(totals, "clean", "loss")),
            accuracy=Number.of_ratio(bootstrap, pooled(totals, "clean", "correct")),
        ),
        rungs=rungs,
        gaussian_ratio=GaussianRatio(
            fitted=Number.of_ratio(bootstrap, gaussian_ratio(totals, "noise-fitted")),
            directional=Number.of_ratio(bootstrap, gaussian_ratio(totals, "noise-directional")),
            isotropic=Number.of_ratio(bootstrap, gaussian_ratio(totals, "noise-isotropic")),
        ),
        reconstruction=ReconstructionMetrics(
            explained_variance=Number.of_ratio(bootstrap, explained_variance(totals))
        ),
        telescope=telescope(bootstrap, gaps),
        perturbative=perturbative_fit(bootstrap, gaps),
        couplings=couplings(bootstrap, totals, table, seed=seed),
        calibration_spread=calibration_spread(bootstrap, gaps),
        circuit=circuit_metrics(bootstrap, totals),
        coding=coding_metrics(bootstrap, totals),
        orders=orders_of(bootstrap, table, totals),
        bath=bath_of(bootstrap, table, totals),
        ratio_parts=ratio_parts(bootstrap, totals),
        conditional=conditional_telescope(bootstrap, gaps, best),
        description=description_metrics(bootstrap, totals),
    )


def couplings(bootstrap: Bootstrap, totals: Totals, table: pd.DataFrame, *, seed: int) -> Couplings | None:
    """Fitted amplitudes of source and noise with what they are worth on evaluation, if there is a grid."""
    grid = grid_of(table)
    if grid is None:
        return None
    found = fit_couplings(grid, seed=seed)
    by_draws = annealed_totals(table, "coupled")
    if not by_draws or "scaled" not in totals:
        return found
    return found.model_copy(
        update={"difference": annealed_less(bootstrap, by_draws[max(by_draws)], totals, "scaled")}
    )


def calibration_spread(bootstrap: Bootstrap, gaps: Mapping[str, Ratio]) -> CalibrationSpread | None:
    """The spread of the Gaussian gap when it is refitted without one fold of the calibration documents."""
    refits = {rung: ratio for rung, ratio in gaps.items() if rung.startswith("full-fold-")}
    if len(refits) < 2:
        return None
    numbers = {rung: Number.of_ratio(bootstrap, ratio) for rung, ratio in refits.items()}
    found = [number.value for number in numbers.values() if number.value is not None]
    return CalibrationSpread(
        gaps=numbers,
        spread=Number.bare(max(found) - min(found), f"the range of {len(found)} refits, no interval"),
    )


def explained_variance(totals: Totals) -> Ratio | str:
    """1 - sum of squared residuals / centred sum of squares, or why there is none."""
    raw = totals.get("raw")
    if raw is None or raw[["residual_ss", "centred_ss"]].isna().to_numpy().any():
        return "sums of squares were not kept"
    centred = column(raw, "centred_ss")
    return Ratio(centred - column(raw, "residual_ss"), centred, "mirrored")


def l0(totals: Totals) -> Ratio | str:
    """Nonzero codes per spliced token, or why there is none."""
    raw = totals.get("raw")
    if raw is None or raw[["active", "spliced"]].isna().to_numpy().any():
        return "codes were not counted"
    return Ratio(column(raw, "active"), column(raw, "spliced"), "positive")


def histogram_quantile(histograms: Iterable[str], level: float, *, tokens: int) -> Estimate:
    """Quantile of the pooled log-binned KL, interpolated in log10 within its bin; nats, no interval.

    Args:
        histograms: `bin:count;bin:count` each; empty ones count nothing.
        level: e.g. 0.99.
        tokens: how many tokens the histograms must count together.

    Raises:
        MeasurementError: they count another number of tokens.
    """
    text = ";".join(histogram for histogram in histograms if histogram)
    if not text:
        return Estimate(None, None, None, "no histogram was kept")
    pairs = np.fromiter(map(int, text.replace(":", ";").split(";")), np.int64).reshape(-1, 2)
    bins, inverse = np.unique(pairs[:, 0], return_inverse=True)
    counts = np.bincount(inverse, weights=pairs[:, 1])
    cumulative = np.cumsum(counts)
    if cumulative[-1] != tokens:
        raise MeasurementError(
            f"kl_histogram counts {cumulative[-1]:.0f} tokens where {tokens} were scored",
            fix="this is a fault of the evaluation loop, not of the submission; please report it",
        )
    target = level * tokens
    place = int(np.searchsorted(cumulative, target))
    if bins[place] <= LOWEST_BIN:
        floor = 10 ** ((LOWEST_BIN + 1) / BINS_PER_DECADE)
        return Estimate(None, None, None, f"below {floor:.1e} nats, the lowest bin of the histogram")
    within = 1 - (cumulative[place] - target) / counts[place]
    value = float(10 ** ((bins[place] + within) / BINS_PER_DECADE))
    return Estimate(value, None, None, "read off a pooled histogram, which has no interval")


def _not_annealed(totals: pd.DataFrame, units: int) -> str | None:
    """Why an annealed loss is not given, or None.

    Args:
        totals: sums of each document over all draws, as `annealed_totals` gives them.
        units: independent ones among the draws.
    """
    if units < ANNEALED_UNITS:
        return f"{units} independent draws; an annealed loss needs {ANNEALED_UNITS}"
    jackknifed = column(totals, "annealed").sum()
    if "annealed_plain" in totals:
        plain = column(totals, "annealed_plain").sum()
        if abs(plain - jackknifed) > ANNEALED_SHARE * plain:
            return (
                f"the estimate moves by over {ANNEALED_SHARE:.0%} with the jackknife: too few draws, or a "
                "rare one decides"
            )
    return None if jackknifed >= 0 else "the jackknife is below 0, as no loss is: too few draws"


def _never_below_0(loss: Number) -> Number:
    """A loss whose interval ends at 0, where documents that the jackknife puts below it would go on."""
    return loss if loss.low is None else loss.model_copy(update={"low": max(0.0, loss.low)})


def _annealed(bootstrap: Bootstrap, totals: Totals, rung: str, rows: pd.DataFrame) -> AnnealedMetrics | None:
    """Annealed metrics of one rung, if its draws allow any."""
    by_draws = annealed_totals(rows, rung)
    if not by_draws:
        return None
    clean = totals["clean"]
    tokens, reference = column(clean, "tokens"), column(clean, "loss")

    def number(draws: int, subtract: float) -> Number:
        # The first number is of two units.
        refusal = _not_annealed(by_draws[draws], 2 * draws // min(by_draws))
        if refusal is not None:
            return Number.null(refusal)
        numerator = column(by_draws[draws], "annealed") - subtract * reference
        return Number.of_ratio(bootstrap, Ratio(numerator, tokens))

    most = max(by_draws)
    nested = [draws for draws in by_draws if most % draws == 0 and (most // draws).bit_count() == 1]
    return AnnealedMetrics(
        loss=_never_below_0(number(most, 0.0)),
        gap=number(most, 1.0),
        draws=most,
        nested={str(draws): number(draws, 1.0) for draws in nested},
    )


def _rung(bootstrap: Bootstrap, totals: Totals, rung: str, rows: pd.DataFrame) -> RungMetrics:
    """Metrics of one rung; `rows` are those of the table that belong to it."""
    p99 = histogram_quantile(rows["kl_histogram"], 0.99, tokens=int(rows["tokens"].sum()))
    return RungMetrics(
        quenched=QuenchedMetrics(
            loss=Number.of_ratio(bootstrap, pooled(totals, rung, "loss")),
            gap=Number.of_ratio(bootstrap, gap(totals, rung)),
            kl=Number.of_ratio(bootstrap, pooled(totals, rung, "kl")),
            kl_p99=Number.of(p99),
            top1=Number.of_ratio(bootstrap, pooled(totals, rung, "top1")),
            accuracy=Number.of_ratio(bootstrap, pooled(totals, rung, "correct")),
        ),
        annealed=_annealed(bootstrap, totals, rung, rows),
    )
