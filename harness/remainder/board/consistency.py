"""Whether a record agrees with itself and with the per-document values beside it.

1. Values: counts within tokens, KL within its histogram, the clean rows clean, the true residual true.
2. Summaries: every one computed anew from the values (`record.recompute`).
3. Measurement: rungs, draws and flags against the rows that the values hold; the key computed anew.
4. Checks inside the run: passed, within limits that are those of the protocol.

What no value gives: `board.plausibility`; words that cannot be shown: `record.recordable`.
Every function yields faults: what was found, what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from remainder.errors import RecordError
from remainder.record.memorised import CHECK, check_memorised
from remainder.record.recompute import recompute
from remainder.record.rungs import (
    AROUND,
    CIRCUIT_RUNGS,
    COUPLED,
    COUPLINGS,
    ERROR_RUNGS,
    GAUSSIANITY,
    KERNELS,
    NULLS,
    REFITS,
    RUNGS,
    SAMPLERS,
    draws_of,
)
from remainder.record.schema import Check, Record
from remainder.record.store import key_of
from remainder.record.summary import BINS_PER_DECADE, LOWEST_BIN
from remainder.record.values import of_split

__all__ = [
    "LIMITS",
    "check_checks",
    "check_measurement",
    "check_provenance",
    "check_summaries",
    "check_values",
]

LIMITS = {
    "true_equals_clean": 1e-4,
    "conformance": 1e-4,
    "decoded_calibration": 1e-4,
    "decoded_evaluation": 1e-4,
    "full_equals_clean": 1e-4,
    "empty_equals_counterfactual": 1e-4,
}
"""Limits of the checks of protocol 1, section 10; nats per token, or a share of the RMS of x."""

_DTYPES = ("bfloat16", "float32")
_ALWAYS = ("conformance", "suffix", "zero_splice")
_BESIDE_RUNGS = {"gaussianity", "compat", "reference"}
_NOISES = "noise-"  # how the denominators of the Gaussian ratio are called among rungs
_SKEW = timedelta(hours=1)  # how far a clock may be ahead of this one
_SLACK = 1e-7  # nats per token that a check's value may differ, which was taken before values were rounded


def check_values(record: Record, values: pd.DataFrame) -> Iterator[str]:
    """Rows that could not have been measured."""
    tokens = values["tokens"]
    raw = values.loc[values["rung"] == "raw"]
    features = math.inf if record.complexity.features is None else record.complexity.features
    impossible = {
        "top1 is more than tokens": values["top1"] > tokens,
        "correct is more than tokens": values["correct"] > tokens,
        "loss is negative": values["loss"] < 0,
        "kl is negative beyond rounding": values["kl"] < -1e-5 * (1 + tokens),
        "kl of rung clean is not 0": (values["rung"] == "clean") & (values["kl"].abs() > 1e-9),
        "top1 of rung clean is not all tokens": (values["rung"] == "clean") & (values["top1"] < tokens),
        "more tokens are scored than spliced": raw["spliced"] < raw["tokens"],
        "more codes are active than there are": raw["active"] > raw["spliced"] * features,
        "a sum of squares is negative": (raw["residual_ss"] < 0) | (raw["centred_ss"] < 0),
    }
    for what, where in impossible.items():
        if where.any():
            yield _row(values.loc[where.index[where.to_numpy(dtype=np.bool_)][0]], what, int(where.sum()))
    yield from _histograms(values)
    yield from _true_rows(values)


def check_summaries(record: Record, values: pd.DataFrame) -> Iterator[str]:
    """Summaries that the values do not give."""
    try:
        recompute(record, values)
    except RecordError as problem:
        yield problem.what


def _conditional(record: Record) -> Iterator[str]:
    """The best conditional sampler is the one of least surprise that is stated."""
    fit = record.calibration
    known = {rung: one.surprise for rung, one in (fit.conditional or {}).items() if rung in SAMPLERS}
    least = min((value for value in known.values() if value is not None), default=None)
    stated = None if fit.best is None else known.get(fit.best)
    if stated != least or not {fit.best, None} <= {*known, None}:
        yield f"calibration.best: {fit.best}, with a surprise of {stated}; the least is {least}"
    described = fit.description
    if described is not None and (record.metrics.description is None) == (described.reason is None):
        yield "calibration.description: it has a reason where net bits are stated, or none where they are not"


def check_measurement(record: Record, values: pd.DataFrame) -> Iterator[str]:
    """Settings that the values contradict."""
    stated = record.measurement
    yield from _conditional(record)
    rows = of_split(values)
    named = set(stated.rungs) & {*NULLS, *COUPLINGS}
    known = set(CIRCUIT_RUNGS) if record.is_of_circuits else {*RUNGS, *AROUND, *named}
    there = set(rows["rung"]) & known
    expected = set(stated.rungs) - {*stated.unmeasured, GAUSSIANITY}
    if there != expected:
        yield (
            f"measurement.rungs: the values hold {_listed(there - expected)} besides, "
            f"and lack {_listed(expected - there)}"
        )
    if record.submission.kind == "feature-circuit" and (lacking := set(ERROR_RUNGS) - set(rows["rung"])):
        yield f"values: a circuit of features lacks {_listed(lacking)}"
    counts = {str(rung): int(count) for rung, count in rows.groupby("rung")["draw"].nunique().items()}
    draws = set(counts.values()) - {1}
    wanted = {rung: _wanted_draws(record, rung, count) for rung, count in counts.items()}
    if counts != wanted or (draws and 2 * stated.pairs not in draws):
        yield (
            f"measurement.pairs: {stated.pairs} pairs and annealed_draws {stated.annealed_draws} are stated, "
            f"and rungs have {', '.join(map(str, sorted(draws)))} draws"
        )
    annealed = [rung.annealed.draws for rung in record.metrics.rungs.values() if rung.annealed is not None]
    if stated.annealed_draws and stated.annealed_draws != max(annealed, default=stated.annealed_draws):
        yield f"measurement.annealed_draws: {stated.annealed_draws}, and rungs have up to {max(annealed)}"
    if stated.whole and not stated.annealed_draws:
        yield "measurement.annealed_draws is 0, measurement.whole True: one goes with the other"
    yield from _flags(record, values)
    excused = {name for name in stated.unmeasured if not name.startswith(_NOISES)}
    if strangers := excused - set(stated.rungs) - _BESIDE_RUNGS:
        yield f"measurement.unmeasured: {_listed(strangers)} was not asked for"
    key = key_of(record)
    if key != record.measurement_key:
        yield f"measurement_key: {record.measurement_key[:12]}…, its parts give {key[:12]}…"
    deviation = stated.bf16_deviation
    if stated.dtype not in _DTYPES:
        yield f"measurement.dtype: {stated.dtype!r}, expected {_listed(_DTYPES)}"
    if (deviation is None) != (stated.dtype == "float32"):
        yield f"measurement.bf16_deviation: {deviation} with dtype {stated.dtype}"
    if deviation is not None and not 0 < deviation.get("tokens", 0) <= record.documents.tokens:
        yield f"measurement.bf16_deviation: of {deviation.get('tokens', 'no')} tokens, not of a batch"
    if stated.batch_size is not None and stated.batch_size < 1:
        yield f"measurement.batch_size: {stated.batch_size} windows"
    if (stated.device_name is None) != (stated.device == "cpu"):
        yield f"measurement.device_name: {stated.device_name} on {stated.device}"


def _wanted_draws(record: Record, rung: str, count: int) -> int:
    """Number of draws that the settings of a record give a rung that has `count` of them."""
    stated = record.measurement
    if record.is_of_circuits:  # the same noise for all, where there is any
        return 1 if count == 1 else 2 * stated.pairs
    kernel = (KERNELS | REFITS | {"coupled": COUPLED}).get(rung)
    if kernel is None or kernel.noise == "none":
        return 1
    return draws_of(rung, stated.rungs, stated.pairs, stated.annealed_draws // 2, whole=stated.whole)


def check_checks(record: Record, values: pd.DataFrame) -> Iterator[str]:
    """Checks inside the run that are missing, failed, or have other limits."""
    sums = of_split(values).groupby("rung")[["loss", "tokens"]].sum()
    needed = list(_ALWAYS) if record.submission.kind == "reconstruction" else []
    needed += ["true_equals_clean"] if "true" in sums.index else []
    for name in needed:
        if name not in record.checks:
            yield f"checks.{name}: is missing"
    for name, check in record.checks.items():
        place = f"checks.{name}"
        if not check.passed:
            yield f"{place}.passed: false; a run that fails a check gives no record"
        if name in (*_ALWAYS, *LIMITS) and check.limit != LIMITS.get(name):
            yield f"{place}.limit: {check.limit}, it is {LIMITS.get(name)}"
        if check.limit is not None and (check.value is None or abs(check.value) > check.limit):
            yield f"{place}.value: {check.value}, the limit is {check.limit}"
    yield from _memorised(record)
    suffix = record.checks.get("suffix")
    if suffix is not None and suffix.value is not None:
        yield f"checks.suffix.value: {suffix.value}; it has none"
    zero, true = record.checks.get("zero_splice"), record.checks.get("true_equals_clean")
    if zero is not None and not zero.value:
        yield f"checks.zero_splice.value: {zero.value}; zeros must change the loss"
    conformance = record.checks.get("conformance")
    if conformance is not None and (conformance.value is None or conformance.value < 0):
        yield f"checks.conformance.value: {conformance.value} is no size"
    if true is not None and "true" in sums.index:
        gap = float((sums.loss["true"] - sums.loss["clean"]) / sums.tokens["clean"])
        if true.value is None or abs(true.value - gap) > _SLACK:
            yield f"checks.true_equals_clean.value: {true.value}, the values give {gap:.3g}"


def _memorised(record: Record) -> Iterator[str]:
    """Whether the comparison of evaluation with the other splits is what the record's figures give."""
    shares, stated = record.calibration.unexplained, record.checks.get(CHECK)
    if not shares:
        if stated is not None:
            yield f"checks.{CHECK}: there are no shares in calibration.unexplained that it could be of"
        return
    expected = check_memorised(shares, record.metrics.reconstruction.explained_variance)
    if stated != expected:
        yield f"checks.{CHECK}: {_verdict(stated)}; the figures give {_verdict(expected)}"


def _verdict(check: Check | None) -> str:
    """A check in words."""
    if check is None:
        return "is missing"
    value = "no value" if check.value is None else f"{check.value:.6g}"
    limit = "no limit" if check.limit is None else f"limit {check.limit:.6g}"
    return f"{'passed' if check.passed else 'failed'} ({value}, {limit}; {check.note or 'no note'})"


def check_provenance(record: Record) -> Iterator[str]:
    """Circumstances that cannot be."""
    told = record.provenance
    try:
        time = datetime.fromisoformat(told.timestamp)
        if time.tzinfo is None:
            yield f"provenance.timestamp: {told.timestamp} names no time zone"
        elif time > datetime.now(UTC) + _SKEW:
            yield f"provenance.timestamp: {told.timestamp} lies in the future"
    except ValueError:
        yield f"provenance.timestamp: {told.timestamp!r} is no ISO 8601 time"
    if told.git_commit is not None and not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", told.git_commit):
        yield f"provenance.git_commit: {told.git_commit!r} is no commit"
    for name, times in (("timings", told.timings), ("cpu", told.cpu or {})):
        for stage, seconds in times.items():
            if seconds < 0:
                yield f"provenance.{name}.{stage}: {seconds:g} seconds"
    if told.tokens_per_second is not None and told.tokens_per_second < 0:
        yield f"provenance.tokens_per_second: {told.tokens_per_second:g}"


def _row(row: pd.Series, what: str, count: int) -> str:
    more = f" (and in {count - 1} more rows)" if count > 1 else ""
    key = (
        f"{row['split']} {row['document']!a}, window {row['window']}, rung {row['rung']}, draw {row['draw']}"
    )
    return f"values: {what}: {key}{more}"


def _histograms(values: pd.DataFrame) -> Iterator[str]:
    """Rows whose KL does not lie within the bounds that its histogram gives."""
    rows = values.loc[values["kl_histogram"] != ""]
    pairs = rows["kl_histogram"].str.count(";").to_numpy() + 1
    if not len(rows):
        return
    text = ";".join(rows["kl_histogram"]).replace(":", ";").split(";")
    table = np.fromiter(map(int, text), np.int64).reshape(-1, 2)
    at = np.repeat(np.arange(len(rows)), pairs)
    bins, counts = table[:, 0], table[:, 1]
    counted = np.bincount(at, weights=counts)
    low = np.where(bins > LOWEST_BIN, 10.0 ** (bins / BINS_PER_DECADE), 0.0) * counts
    high = 10.0 ** ((bins + 1) / BINS_PER_DECADE) * counts
    tokens, kl = rows["tokens"].to_numpy(), rows["kl"].to_numpy()
    # KLs are told apart in float32, and a tiny one may come out negative.
    slack = 1e-5 * (np.abs(kl) + counted)
    faults = {
        "kl_histogram counts other tokens": counted != tokens,
        "kl is not what its histogram allows": (kl < np.bincount(at, weights=low) - slack)
        | (kl > np.bincount(at, weights=high) + slack),
    }
    for what, where in faults.items():
        if where.any():
            yield _row(rows.iloc[int(where.argmax())], what, int(where.sum()))


def _true_rows(values: pd.DataFrame) -> Iterator[str]:
    """Documents on which the true residual does not give back the clean loss."""
    rows = of_split(values).set_index(["document", "window"])
    true, clean = rows.loc[rows["rung"] == "true", "loss"], rows.loc[rows["rung"] == "clean"]
    if not len(true):
        return
    # Looser than the check over all tokens: one window's rounding does not average out.
    missed = ((true - clean["loss"]) / clean["tokens"].clip(lower=1)).abs() > 100 * LIMITS[
        "true_equals_clean"
    ]
    if missed.any():
        document, window = missed.index[missed.to_numpy(dtype=np.bool_)][0]
        yield f"values: rung true misses the clean loss: document {document!a}, window {window}"


def _flags(record: Record, values: pd.DataFrame) -> Iterator[str]:
    """Compare what was asked for with what is there."""
    stated, unmeasured, named = record.measurement, record.measurement.unmeasured, {*record.measurement.rungs}
    grid = bool((values["split"] == "calibration").any())
    there = {
        "couplings": (stated.whole or not named.isdisjoint(COUPLINGS), grid, ""),
        "gaussianity": (
            stated.whole or GAUSSIANITY in named,
            record.metrics.gaussianity is not None,
            "gaussianity",
        ),
        "compat": (stated.compat, record.compat is not None, "compat"),
    }
    for name, (wanted, found, excuse) in there.items():
        if found != (wanted and excuse not in unmeasured):
            yield f"measurement: {name} {'is' if found else 'is not'} there, and was{_not(wanted)} asked for"
    nested = "model" in set(values["rung"])
    if nested != (record.reference is not None):
        yield f"reference: {record.reference and record.reference.name}, rung model is{_not(nested)} there"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _not(said: bool) -> str:
    return "" if said else " not"
