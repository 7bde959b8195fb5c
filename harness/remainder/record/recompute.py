"""The proof of a record: its summaries computed anew from the per-document values beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pandas as pd

from remainder.errors import RecordError
from remainder.record.intervals import other_rounding
from remainder.record.schema import CodingInfo, Record
from remainder.record.store import documents_info
from remainder.record.summary import summaries_of
from remainder.record.values import canonical_values

__all__ = ["recompute"]

_SHAKES = 6
"""The number of other roundings that are tried, to see what rounding does to an interval's ends."""
_BEYOND = 3.0
"""A few tries do not reach as far as all platforms do."""


def recompute(record: Record, values: pd.DataFrame) -> None:
    """Summarise `values` anew and compare with the record, to 1e-5 relative (platforms add in other orders).

    An end of an interval is one order statistic of resamples, each over its own standard error. Where some of
    these have hardly any spread, the order of a sum moves it farther: it may lie where rounding puts it.
    Tests of Gaussianity and `compat` need activations and are left out.

    Raises:
        RecordError: a summary differs; the message names the first few.
    """
    table, seed = canonical_values(values), record.measurement.seed
    summarised = partial(
        _summaries, table, seed=seed, coding=record.complexity.coding, best=record.calibration.best
    )
    recomputed = summarised()
    stated = {
        "metrics": record.metrics.model_dump(mode="json", exclude={"gaussianity"}),
        "complexity": record.complexity.model_dump(mode="json", include=set(recomputed["complexity"])),
        "documents": record.documents.model_dump(mode="json"),
    }
    found = {
        **recomputed,
        "documents": documents_info(table).model_dump(mode="json"),
    }
    first, second = dict(_leaves(stated, "")), dict(_leaves(found, ""))
    places = [
        place
        for place in sorted(first.keys() | second.keys())
        if not _same(first.get(place), second.get(place))
    ]
    if places and all(place.endswith((".low", ".high")) for place in places):
        others = (summarised(rounding=number) for number in range(_SHAKES))
        shaken = [second, *(dict(_leaves(other, "")) for other in others)]
        places = [
            place
            for place in places
            if not _moved_by_rounding(first.get(place), [one.get(place) for one in shaken])
        ]
    differing = [f"{place}: {first.get(place)} recorded, {second.get(place)} recomputed" for place in places]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise RecordError(
            f"record {record.record_id[:12]}: {'; '.join(differing[:3])}{more}",
            fix="measure again; a summary that its values do not give is not to be trusted",
        )


def _summaries(
    table: pd.DataFrame,
    *,
    seed: int,
    coding: CodingInfo | None,
    best: str | None,
    rounding: int | None = None,
) -> dict[str, Any]:
    """All that is summarised from a canonical table, as plain JSON; with `rounding`, as another platform may
    round."""
    with nullcontext() if rounding is None else other_rounding(rounding):
        metrics, counted = summaries_of(table, seed=seed, coding=coding, best=best)
    return {
        "metrics": metrics.model_dump(mode="json", exclude={"gaussianity"}),
        "complexity": {name: number.model_dump(mode="json") for name, number in counted.items()},
    }


def _moved_by_rounding(stated: Any, shaken: list[Any]) -> bool:
    """Whether a number lies where other rounding puts it, or beyond by up to `_BEYOND` times their spread."""
    if not isinstance(stated, float) or not all(isinstance(one, float) for one in shaken):
        return False
    low, high = min(shaken), max(shaken)
    room = _BEYOND * (high - low)
    return bool(low - room <= stated <= high + room)


def _leaves(content: Any, place: str) -> Iterable[tuple[str, Any]]:
    """Every scalar of nested dicts and lists with its dotted place."""
    if isinstance(content, dict):
        for name, item in content.items():
            yield from _leaves(item, f"{place}.{name}" if place else name)
    elif isinstance(content, (list, tuple)):
        for index, item in enumerate(content):
            yield from _leaves(item, f"{place}[{index}]")
    else:
        yield place, content


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-9)
    return bool(first == second)
