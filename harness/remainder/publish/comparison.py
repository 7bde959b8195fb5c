"""Hold values that were measured again against those of a record.

1. The record's windows must be those of the task's tier, and the rows of the table the same.
2. Row by row, each number within the tolerance of `board.tolerance`.
3. Over the rows of each rung, since a shift of all of them is more than chance would move: the mean of
   loss, KL and right answers, and the sum of bits.
4. What the calibration split gives: step, live features, the fit's own figures.

A code that lies between two steps is rounded otherwise where the order of sums is another, and the bits of
its token move, by up to `FLIPPED` a window. They move up as often as down, so the sum over n windows may move
by √n times as much, not n times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from remainder.board.tolerance import Tolerance
from remainder.measure.seal import Remeasured
from remainder.record.schema import Record
from remainder.record.store import StoredRecord
from remainder.record.summary import LOWEST_BIN
from remainder.record.values import KEY, of_split

__all__ = ["FLIPPED", "Compared", "compare"]

FLIPPED = 16
"""Bits of a window by which codes that lie between two steps may move it."""

_LOSSES = frozenset({"loss", "kl", "annealed"})
"""Columns that a code that turned moves by more than a row is allowed to."""

_UNRANKED = "complexity.coding.added."
"""Figures of a cost that no place depends on."""

_SMALL = 1e-3  # size of a figure of the fit from which on its deviation is relative


class Compared(NamedTuple):
    """The outcome of a comparison."""

    rows: int
    """Rows of the table of values that both have."""
    largest: float
    """Largest deviation of a loss or KL, nats per scored token; not counting rows that are missing."""
    where: str
    """The place of the largest deviation."""
    faults: tuple[str, ...]


def compare(stored: StoredRecord, found: Remeasured, tier: str, tolerance: Tolerance) -> Compared:
    """Compare a record with some of its documents, measured again.

    Args:
        tier: the tier whose windows the record should have, for messages.
    """
    joined = _joined(stored.values, found)
    faults = (
        *_windows(stored, found, tier),
        *_missing(joined),
        *_rows(joined, tolerance),
        *_means(joined, tolerance),
        *_bits(joined, tolerance),
        *_fitted(stored.record, found, tolerance),
    )
    both = joined.loc[joined["_merge"] == "both"]
    deviations = np.maximum(*(_per_token(both, name).abs().to_numpy() for name in ("loss", "kl")))
    worst = int(deviations.argmax()) if len(both) else None
    return Compared(
        rows=len(both),
        largest=0.0 if worst is None else float(deviations[worst]),
        where="" if worst is None else _place(both.iloc[worst]),
        faults=faults,
    )


def _windows(stored: StoredRecord, found: Remeasured, tier: str) -> Iterator[str]:
    """Whether the record's windows are those of the task's tier."""
    clean = of_split(stored.values).query("rung == 'clean'")
    recorded = set(zip(clean["document"], clean["window"], strict=True))
    if recorded != found.windows:
        yield (
            f"windows: {len(recorded - found.windows)} are none of the tier {tier}, "
            f"{len(found.windows - recorded)} of its {len(found.windows)} are missing"
        )


def _joined(stated: pd.DataFrame, found: Remeasured) -> pd.DataFrame:
    """Recorded rows of the documents beside those found now (`_now`), by the key of the table."""
    here = of_split(stated)
    # A column that only one of the two has is as wrong as a wrong number.
    columns = list(dict.fromkeys([*here.columns, *found.values.columns]))
    joined: pd.DataFrame = (
        here.loc[here["document"].isin(found.documents)]
        .reindex(columns=columns)
        .merge(
            found.values.reindex(columns=columns),
            on=KEY,
            how="outer",
            suffixes=("", "_now"),
            indicator=True,
        )
    )
    # Rungs that come from a fit to the grid of couplings, which is not repeated.
    kept: pd.DataFrame = joined.loc[~joined["rung"].isin(["coupled", "scaled"])].reset_index(drop=True)
    return kept


def _missing(joined: pd.DataFrame) -> Iterator[str]:
    for side, what in (("left_only", "recorded, and not found"), ("right_only", "found, and not recorded")):
        rows = joined.loc[joined["_merge"] == side]
        if len(rows):
            yield f"{len(rows)} rows of values are {what}, the first at {_place(rows.iloc[0])}"


def _rows(joined: pd.DataFrame, tolerance: Tolerance) -> Iterator[str]:
    """Rows, one by one, that came out otherwise."""
    both = joined.loc[joined["_merge"] == "both"]
    tokens = both["tokens"].clip(lower=1)
    allowed: dict[str, pd.Series] = {
        name: tolerance.row * tokens + tolerance.relative * both["kl"].abs()
        for name in ("loss", "kl", "annealed", "answer")
        if name in both
    }
    allowed |= {name: tolerance.answers * tokens + 1 for name in ("top1", "correct")}
    allowed |= {name: tolerance.share * both[name].abs() for name in ("residual_ss", "centred_ss")}
    allowed["active"] = tolerance.share * both["active"].abs() + 1
    allowed |= {name: 0.0 * tokens for name in ("tokens", "spliced")}
    for name in both.columns:
        if f"{name}_now" in both and name.startswith(("bits", "ss_")):
            allowed[name] = tolerance.relative * both[name].abs() + FLIPPED * name.startswith("bits")
    turned = _turned(both, allowed, tolerance)
    for name in _LOSSES & allowed.keys():
        allowed[name] = allowed[name].where(~turned, allowed[name] * tolerance.turned)
    for name, limit in allowed.items():
        stated, now = both[name], both[f"{name}_now"]
        # A number that is missing on one side only is as wrong as a wrong one.
        bad = ~((stated - now).abs() <= limit) & ~(stated.isna() & now.isna())
        for index in both.index[bad]:
            row = both.loc[index]
            yield (
                f"{name} at {_place(row)}: {row[name]:g} recorded, {row[f'{name}_now']:g} found "
                f"(allowed: {limit[index]:.2g})"
            )
    for _, row in both.iterrows():
        moved = _histogram_move(row["kl_histogram"], row["kl_histogram_now"], tolerance.floor)
        if not moved <= tolerance.bins:
            yield (
                f"kl_histogram at {_place(row)}: a token's KL moved by {moved:.2g} bins in the mean "
                f"(allowed: {tolerance.bins:g})"
            )


def _turned(both: pd.DataFrame, allowed: Mapping[str, pd.Series], tolerance: Tolerance) -> pd.Series:
    """Rows of the one window in which a token's codes may have been rounded otherwise.

    A latent that is the last to be chosen, or lies between two steps, may turn; its token moves on every
    rung, by more than a row is allowed to. It is the window that deviates most, and one of all: the means of
    rungs, which allow for no such thing, still hold what a place depends on.
    """
    moved = pd.Series(0.0, index=both.index)
    for name in _LOSSES & allowed.keys():
        now = ((both[name] - both[f"{name}_now"]).abs() / allowed[name]).fillna(0.0)
        moved = moved.where(moved >= now, now)
    here: pd.Series = pd.Series(np.zeros(len(both), dtype=bool), index=both.index)
    if tolerance.turned > 1 and bool((moved > 1).any()):
        worst = both.iloc[int(moved.argmax())]
        here |= both[["document", "window"]].eq(worst[["document", "window"]]).all(axis=1)
    return here


def _means(joined: pd.DataFrame, tolerance: Tolerance) -> Iterator[str]:
    """Rungs that are shifted as a whole by more than chance would."""
    both = joined.loc[joined["_merge"] == "both"]
    for rung, rows in both.groupby("rung", sort=True):
        tokens = float(rows["tokens"].clip(lower=1).sum())
        kl = abs(float(rows["kl"].sum())) / tokens
        spread = tolerance.mean + tolerance.relative * kl
        counted = tolerance.answers + 1 / tokens  # of all rows; each by itself may have one more
        limits = {"loss": spread, "kl": spread, "top1": counted, "correct": counted}
        for name, allowed in limits.items():
            stated, now = (float(rows[column].sum()) / tokens for column in (name, f"{name}_now"))
            if not abs(stated - now) <= allowed:
                yield (
                    f"mean {name} of rung {rung}: {stated:.6g} recorded, {now:.6g} found, per token "
                    f"(allowed: {allowed:.2g})"
                )


def _bits(joined: pd.DataFrame, tolerance: Tolerance) -> Iterator[str]:
    """Rungs whose bits, at a step or at a point, are shifted as a whole by more than chance would."""
    both = joined.loc[joined["_merge"] == "both"]
    columns = [name for name in both.columns if name.startswith("bits") and f"{name}_now" in both]
    for rung, rows in both.groupby("rung", sort=True):
        for name in columns:
            pairs = rows[[name, f"{name}_now"]].dropna()  # that one side lacks one is told row by row
            stated, now = (float(pairs[column].sum()) for column in pairs)
            allowed = tolerance.relative * abs(stated) + FLIPPED * math.sqrt(len(pairs))
            if not abs(stated - now) <= allowed:
                yield (
                    f"sum of {name} of rung {rung}: {stated:.6g} recorded, {now:.6g} found, over "
                    f"{len(pairs)} windows (allowed: {allowed:.2g})"
                )


def _fitted(record: Record, found: Remeasured, tolerance: Tolerance) -> Iterator[str]:
    """Compare what the calibration split gives: cost, and the figures of the fit."""
    stated, now = (
        _numbers("calibration", of.calibration.model_dump())
        | _numbers("complexity", of.complexity.model_dump(exclude={"l0", "bits_per_token", "lone_code_sets"}))
        for of in (record, found)
    )
    for place in sorted(stated.keys() | now.keys()):
        first, second = stated.get(place), now.get(place)
        if first is None or second is None:
            same = first is second
        else:
            # What is ranked is held to what KL is held to.
            is_ranked = place.startswith("complexity.") and not place.startswith(_UNRANKED)
            share = tolerance.relative if is_ranked else tolerance.share
            same = math.isclose(first, second, rel_tol=share, abs_tol=_SMALL * share)
        if not same:
            yield f"{place}: {first} recorded, {second} found"


def _numbers(place: str, content: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Every number of nested dicts, by its dotted place; words are left out."""
    found: dict[str, float | int | None] = {}
    for name, item in content.items():
        if isinstance(item, Mapping):
            found |= _numbers(f"{place}.{name}", item)
        elif item is None or isinstance(item, (int, float)):
            found[f"{place}.{name}"] = item
    return {name: item for name, item in found.items() if not name.endswith(".reason")}


def _per_token(both: pd.DataFrame, name: str) -> pd.Series:
    return (both[name] - both[f"{name}_now"]) / both["tokens"].clip(lower=1)


def _place(row: pd.Series) -> str:
    return f"document {row['document']}, window {row['window']}, rung {row['rung']}, draw {row['draw']}"


def _histogram_move(stated: str, now: str, floor: int) -> float:
    """Mean number of bins between the sorted KLs of two histograms; infinite if they count other tokens."""
    first, second = _sorted_bins(stated, floor), _sorted_bins(now, floor)
    if len(first) != len(second):
        return math.inf
    return float(np.abs(first - second).mean()) if len(first) else 0.0


def _sorted_bins(histogram: str, floor: int) -> np.ndarray:
    pairs: Iterable[list[str]] = (part.split(":") for part in histogram.split(";") if part)
    counts = {int(number): int(count) for number, count in pairs}
    bins = np.repeat(list(counts), list(counts.values())) if counts else np.zeros(0)
    return np.sort(np.maximum(bins, max(floor, LOWEST_BIN)))
