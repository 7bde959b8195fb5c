"""The table of per-document values, the raw material of a record: one row per window, rung and draw.

| column | holds |
|---|---|
| `split`, `document`, `window`, `rung`, `draw` | the key; rung `clean` is the untouched model, draw 0 |
| `tokens` | scored tokens |
| `loss`, `kl` | sums over scored tokens, nats; `kl` is KL(clean, spliced) |
| `top1`, `correct` | scored tokens whose most likely class is the clean one, the target; empty for numbers |
| `annealed` | sum of the annealed loss over all draws up to this one, at the end of an independent unit |
| `annealed_plain` | the same before the jackknife; no such column where nothing is annealed |
| `kl_histogram` | `bin:count;bin:count`, bin = floor(20 log10 kl), no lower than -160 |
| `residual_ss` | rung `raw`, and rungs whose bits are counted: squared residual of spliced tokens |
| `centred_ss` | rung `raw` only: squared distance of the activation from its mean, of spliced tokens |
| `active`, `spliced` | rung `raw` only: nonzero codes summed over spliced tokens, spliced tokens |
| `bits` | rungs whose bits are counted (`rungs.is_paid`): bits of the codes of spliced tokens |
| `bits_0` …, `ss_0` … | rung `raw` only: bits and squared residual if codes were quantised with step j |
| `code_bits`, `code_ss` | rung `raw` only: bits and squared residual at the step of description lengths |
| `x_bits`, `remainder_bits` | rung `raw` only: −log₂ densities of x and of what these codes leave |
| `…_coarse`, `…_fine` | the same with more and with less noise added |
| `answer` | circuits only: sum of the log-odds of right against wrong tokens |

A table has all columns of `bits` and `ss` or none, all of description lengths or none, and `answer` or not;
all others are always there.

Split `evaluation` holds every score; split `calibration` the grid that couplings are fitted to, if any.
Floats are kept to nine significant digits from the start, so that what is summarised is what is stored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.errors import MeasurementError
from remainder.record.intervals import Ratio
from remainder.record.json import significant
from remainder.record.rungs import STEPS, is_paid
from remainder.record.scales import ScaleName

__all__ = [
    "CODING",
    "DESCRIPTION",
    "KEY",
    "KL_ROUNDING",
    "RAW_ONLY",
    "STEP_BITS",
    "STEP_SQUARES",
    "Totals",
    "annealed_totals",
    "canonical_values",
    "column",
    "csv_of",
    "document_totals",
    "gap",
    "of_split",
    "pooled",
    "values_from_csv",
    "values_to_csv",
    "without_rounding",
]

Totals = Mapping[str, pd.DataFrame]
"""Sums over each document, by rung, as `document_totals` gives them."""

KL_ROUNDING = 1e-8
"""Nats per token below which a KL is 0."""

_NEGATIVE_ROUNDING = 1e-4
"""Nats per token by which rounding may put a KL below 0. What is farther below stays to be seen."""

DIGITS = 9
"""Significant digits of every float in the table."""

_EXACT_POWER = 22
"""Powers of ten up to this one are exact in float64."""

KEY = ["split", "document", "window", "rung", "draw"]
SPLITS = ("calibration", "evaluation")
_NAMES = ["split", "document", "rung"]
_INTEGERS = ["window", "draw", "tokens"]
_FLOATS = ["loss", "kl"]
_ANSWERS = ["top1", "correct"]
_ANNEALED = "annealed"
_PLAIN = "annealed_plain"
_RESIDUAL, _BITS = "residual_ss", "bits"
RAW_ONLY = [_RESIDUAL, "centred_ss", "active", "spliced"]
STEP_BITS = tuple(f"bits_{step}" for step in range(STEPS))
STEP_SQUARES = tuple(f"ss_{step}" for step in range(STEPS))
CODING = [_BITS, *STEP_BITS, *STEP_SQUARES]
DESCRIPTION = (
    *("code_bits", "code_ss", "x_bits", "remainder_bits"),
    *("x_bits_coarse", "remainder_bits_coarse", "x_bits_fine", "remainder_bits_fine"),
)
_ANSWER = "answer"
_OPTIONAL = (CODING, [_PLAIN], [_ANSWER], list(DESCRIPTION))
"""Columns that a table may lack, all of a group together."""
COLUMNS = [*KEY, "tokens", *_FLOATS, *_ANSWERS, "kl_histogram", _ANNEALED, *RAW_ONLY]
_SCALES: Mapping[str, ScaleName] = {
    "loss": "positive",
    "kl": "positive",
    "top1": "share",
    "correct": "share",
}
_FIX = "this is a fault of the evaluation loop, not of the submission; please report it"


def canonical_values(values: pd.DataFrame) -> pd.DataFrame:
    """The table checked, rounded, and in its one order of rows and columns. Doing it twice changes nothing.

    Raises:
        MeasurementError: a column is missing or foreign, a number is missing or not finite, or a rung does
            not cover the windows and tokens of `clean`, all with the same draws.
    """
    if _PLAIN in values and values[_PLAIN].isna().all():
        values = values.drop(columns=_PLAIN)
    columns = [*COLUMNS, *_there(values)]
    missing, foreign = set(columns) - set(values.columns), set(values.columns) - set(columns)
    if missing or foreign:
        raise MeasurementError(
            f"per-document values: columns missing {sorted(missing)}, foreign {sorted(foreign)}", fix=_FIX
        )
    table = values[columns].reset_index(drop=True)
    for name in _NAMES:
        table[name] = _names(table, name)
    for name in _INTEGERS:
        table[name] = _integers(table, name)
    owners = _Owners(table)
    for name in columns[columns.index("tokens") + 1 :]:
        if name != "kl_histogram":
            table[name] = _floats(table, name, owners)
    table["kl_histogram"] = table["kl_histogram"].astype(object).fillna("").astype(str)
    ordered: pd.DataFrame = table.sort_values(KEY, ignore_index=True)
    for split, rows in ordered.groupby("split"):
        if split not in SPLITS:
            raise MeasurementError(f"per-document values: there is no split {split!r}", fix=_FIX)
        _check_coverage(rows)
    if "evaluation" not in set(ordered["split"]):
        raise MeasurementError("per-document values: no row is of split evaluation", fix=_FIX)
    return ordered


def values_to_csv(values: pd.DataFrame) -> bytes:
    """The canonical table as CSV, UTF-8, the same bytes for the same content."""
    return csv_of(canonical_values(values))


def csv_of(table: pd.DataFrame) -> bytes:
    """The CSV of a table that is canonical already."""
    text: str = table.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
    return text.encode()


def values_from_csv(data: bytes) -> pd.DataFrame:
    """The canonical table from its CSV; exactly the table that was written.

    Whatever a parser does to the last bit of a float is undone by the rounding to nine digits.
    """
    table = pd.read_csv(
        io.BytesIO(data),
        dtype=dict.fromkeys([*_NAMES, "kl_histogram"], str),
        keep_default_na=False,  # a document may be called "NA"
        na_values={
            name: [""]
            for name in [*_FLOATS, *_ANSWERS, _ANNEALED, *RAW_ONLY, *CODING, _PLAIN, _ANSWER, *DESCRIPTION]
        },
    )
    return canonical_values(table)


def of_split(values: pd.DataFrame, split: str = "evaluation") -> pd.DataFrame:
    """The rows of one split."""
    rows: pd.DataFrame = values.loc[values["split"] == split]
    return rows


def document_totals(values: pd.DataFrame, split: str = "evaluation") -> dict[str, pd.DataFrame]:
    """Per rung, one row per document (sorted by id): sums over windows, averaged over draws.

    Args:
        values: a canonical table.
        split: whose rows.
    """
    columns = ["tokens", *_FLOATS, *_ANSWERS, *RAW_ONLY, *_there(values)]
    rows = of_split(values, split)
    sums = rows.groupby(["rung", "document"], sort=True)[columns].sum(min_count=1).astype(np.float64)
    totals = {}
    for rung, number in rows.groupby("rung", sort=True)["draw"].nunique().items():
        means = sums.loc[(str(rung),), :] / number
        means["kl"] = without_rounding(column(means, "kl"), column(means, "tokens"))
        totals[str(rung)] = means
    return totals


def without_rounding(kl: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of KL over documents, `[documents]`, with 0 for what is rounding.

    A document below `KL_ROUNDING` nats per token counts as 0, and so do all where their mean is below it:
    float32 passes that agree in everything differ by as much, to either side.
    """
    rounding = (kl < KL_ROUNDING * tokens) & (kl > -_NEGATIVE_ROUNDING * tokens)
    kept = np.where(rounding, 0.0, kl)
    return np.zeros_like(kl) if abs(kept.sum()) < KL_ROUNDING * tokens.sum() else kept


def annealed_totals(values: pd.DataFrame, rung: str, split: str = "evaluation") -> dict[int, pd.DataFrame]:
    """Sums of the annealed loss of each document, by how many draws they took; empty if there are none."""
    sums = [name for name in (_ANNEALED, _PLAIN) if name in values]
    rows = values.loc[values[_ANNEALED].notna() & (values["split"] == split) & (values["rung"] == rung)]
    return {
        int(cast(int, draw)) + 1: part.groupby("document", sort=True)[sums].sum()
        for draw, part in rows.groupby("draw", sort=True)
    }


def column(totals: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """One column of `document_totals` as an array `[documents]`."""
    return totals[name].to_numpy(dtype=np.float64)


def pooled(totals: Totals, rung: str, name: str) -> Ratio | str:
    """Column `name` of a rung per scored token, or why there is none."""
    if rung not in totals:
        return f"rung {rung} was not measured"
    values = column(totals[rung], name)
    if np.isnan(values).all():
        return f"targets are numbers, which have no {name}" if name in ("top1", "correct") else f"no {name}"
    return Ratio(values, column(totals["clean"], "tokens"), _SCALES.get(name, "plain"))


def gap(totals: Totals, rung: str, base: str = "clean") -> Ratio | str:
    """Loss of a rung minus that of `base`, signed, per scored token, or why there is none."""
    loss, of_base = pooled(totals, rung, "loss"), pooled(totals, base, "loss")
    if isinstance(loss, str) or isinstance(of_base, str):
        return loss if isinstance(loss, str) else str(of_base)
    return Ratio(loss.numerator - of_base.numerator, loss.denominator)


def _there(values: pd.DataFrame) -> list[str]:
    """The optional columns of a table."""
    return [name for group in _OPTIONAL if any(name in values.columns for name in group) for name in group]


def _names(table: pd.DataFrame, name: str) -> pd.Series:
    names = table[name]
    for entry in names.unique():
        if not isinstance(entry, str) or not entry or not entry.isprintable():
            raise MeasurementError(
                f"per-document values: {name} {entry!r} is not a printable, non-empty name", fix=_FIX
            )
    return names.astype(str)


def _integers(table: pd.DataFrame, name: str) -> NDArray[np.int64]:
    numbers = pd.to_numeric(table[name]).to_numpy(dtype=np.float64)
    _refuse(table, name, ~(np.isfinite(numbers) & (numbers % 1 == 0) & (numbers >= 0)), "a count")
    return numbers.astype(np.int64)


class _Owners:
    """The rows that may have a number in a column that few rungs have; found once a table."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.rung, rungs = pd.factorize(table["rung"])
        self.raw = np.array([rung == "raw" for rung in rungs], dtype=np.bool_)[self.rung]
        self.paid = np.array([is_paid(rung) for rung in rungs], dtype=np.bool_)[self.rung]
        self.draw, _ = pd.factorize(pd.MultiIndex.from_frame(table[["split", "rung", "draw"]]))

    def of(self, name: str) -> NDArray[np.bool_]:
        """The rows that may have a number in a column."""
        return {_BITS: self.paid, _RESIDUAL: self.raw | self.paid}.get(name, self.raw)


def _any(flags: NDArray[np.bool_], group: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether any row of a row's group has the flag."""
    found: NDArray[np.bool_] = (np.bincount(group, weights=flags) > 0)[group]
    return found


def _floats(table: pd.DataFrame, name: str, owners: _Owners) -> NDArray[np.float64]:
    numbers = pd.to_numeric(table[name]).to_numpy(dtype=np.float64)
    empty = np.isnan(numbers)
    _refuse(table, name, np.isinf(numbers), "a finite number")
    if name in _FLOATS or name == _ANSWER:
        _refuse(table, name, empty, "a finite number")
    elif name in _ANSWERS:
        _refuse(table, name, ~empty & ~((numbers % 1 == 0) & (numbers >= 0)), "a count")
        if not empty.all():  # numbers have no most likely class; half a column is a fault
            _refuse(table, name, empty, "a count in every row")
    elif name in (_ANNEALED, _PLAIN):
        _refuse(table, name, empty & _any(~empty, owners.draw), "a number in every window")
    else:
        own = owners.of(name)
        _refuse(table, name, ~empty & ~own, "nothing on this rung")
        # Half a rung is a fault; a kind of interpretation may have none of these, codes that are paid for
        # have all.
        needed = (
            _any(~empty, owners.rung) | (name in (*CODING, *DESCRIPTION)) | (owners.paid & (_BITS in table))
        )
        _refuse(table, name, empty & own & needed, "a number in every row of this rung")
    return _rounded(numbers)


def _rounded(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each to nine significant digits, as `significant` rounds; counts and gaps stay as they are."""
    rounded = numbers + 0.0
    changes = np.flatnonzero(~np.isnan(numbers) & ~((np.abs(numbers) < 10**DIGITS) & (numbers % 1 == 0)))
    given = numbers[changes]
    # By a power of ten that is exact in float64 to an integer and back: both steps round as decimals do,
    # but for numbers of other sizes, and those that lie next to the middle of two decimals.
    power = DIGITS - 1 - np.floor(np.log10(np.abs(given))).astype(np.int64)
    up, down = (10.0 ** np.clip(sign * power, 0, _EXACT_POWER) for sign in (1, -1))
    scaled = given * up / down
    whole = np.rint(scaled)
    sure = (np.abs(power) <= _EXACT_POWER) & (np.abs(scaled - whole) < 0.4999)
    sure &= (np.abs(whole) >= 10 ** (DIGITS - 1)) & (np.abs(whole) < 10**DIGITS)
    found = whole / up * down
    found[~sure] = [significant(number, DIGITS) for number in given[~sure].tolist()]
    rounded[changes] = found
    return rounded


def _refuse(table: pd.DataFrame, name: str, bad: NDArray[np.bool_], expected: str) -> None:
    """Raise for the first row where `bad`, saying which it is."""
    if bad.any():
        row = table.loc[bad].iloc[0]
        place = ", ".join(f"{key} {row[key]}" for key in KEY)
        raise MeasurementError(
            f"per-document values: {name} is {row[name]} at {place}; expected {expected}", fix=_FIX
        )


def _check_coverage(table: pd.DataFrame) -> None:
    """Every rung covers exactly the windows and tokens of `clean`, each with the same draws."""
    duplicated = table.duplicated(KEY).to_numpy(dtype=np.bool_)
    _refuse(table, "draw", duplicated, "each key once")
    clean = table.loc[table["rung"] == "clean"]
    if clean.empty or clean["draw"].nunique() != 1:
        raise MeasurementError("per-document values: rung clean is missing or has several draws", fix=_FIX)
    reference = clean.set_index(["document", "window"])["tokens"]
    windows = pd.MultiIndex.from_frame(table[["document", "window"]])
    expected = reference.reindex(windows).to_numpy(dtype=np.float64)
    _refuse(table, "tokens", table["tokens"].to_numpy() != expected, "as many as for rung clean")
    for rung, rows in table.groupby("rung"):
        wanted = len(reference) * rows["draw"].nunique()
        if len(rows) != wanted:
            raise MeasurementError(
                f"per-document values: rung {rung} has {len(rows)} rows, expected {wanted} "
                "(every window of clean with every draw)",
                fix=_FIX,
            )
