"""Measurements made once a task, which every record of it states: transform coding, and random circuits.

1. Bits and KL of transform coding, by step, and R₀, the bits that budgets are shares of. They depend on
   task, tier and dtype.
2. KL of random circuits, by the number of edges that they keep; no record states it, and it follows from what
   is stated, KL_random = (KL + ε) exp(efficiency) − ε, ε = 10⁻⁶ nats. A ranking of edges is held against
   random circuits of all edges that a size allows, and any other circuit against those of the edges that it
   keeps: so a size is compared if its format is known to rank edges, or if both are the same number. Random
   circuits of features are of a submission's own latents, and none is compared.

Values of two records agree if they differ by no more than another device rounds (`board.tolerance`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from remainder.board.tolerance import TOLERANCES
from remainder.record.circuit_summary import AGAINST_RANDOM, EMPTY, HEADLINE
from remainder.record.json import significant
from remainder.record.rungs import REFERENCE_MEAN, reference_rung
from remainder.submission.method import FORMATS

__all__ = ["agree", "of_random_circuits", "of_reference"]

_FLOOR = 1e-6
"""ε: nats that `record.circuit_summary` adds to KL under the logarithm of an efficiency."""
_DIGITS = 4  # what six digits of KL and efficiency leave of it
_SIZE = re.compile(r"\+?[01](\.[0-9]+)?(e-[0-9]+)?")


def of_reference(content: Mapping[str, Any]) -> dict[str, float]:
    """Bits per token, and KL in nats per token, of each rung of transform coding, and R₀, by place.

    Args:
        content: a record as plain JSON; one without the reference gives nothing.
    """
    metrics, info = content["metrics"].get("coding"), content["complexity"].get("coding")
    if metrics is None or info is None:
        return {}
    rungs = (REFERENCE_MEAN, *map(reference_rung, sorted(info["reference_steps"])))
    full = metrics["full_bits"]["value"]
    whole = {} if full is None else {"metrics.coding.full_bits": float(full)}
    return whole | {
        f"metrics.coding.reference, {name} of {rung}": float(point[name]["value"])
        for rung, point in zip(rungs, metrics["reference"], strict=False)
        for name in ("bits", "kl")
        if point[name]["value"] is not None
    }


def of_random_circuits(content: Mapping[str, Any]) -> dict[str, float]:
    """KL of the median random circuit, nats per token, by place, which names the number of edges.

    Args:
        content: a record of circuits of edges, as plain JSON.
    """
    found = {}
    for size, point in content["metrics"]["circuit"]["points"].items():
        efficiency, own = point.get("efficiency"), point["rungs"].get(AGAINST_RANDOM)
        if efficiency is None or own is None:
            continue
        ratio, kl, edges = efficiency["value"], own["kl"]["value"], _edges(content, size)
        if ratio is not None and kl is not None and edges is not None:
            value = (max(float(kl), 0.0) + _FLOOR) * math.exp(float(ratio)) - _FLOOR
            found[f"KL of random circuits of {edges} edges"] = significant(value, _DIGITS)
    return found


def agree(one: float, other: float, dtype: str) -> bool:
    """Whether two values of one place differ by no more than rounding, in a suffix of `dtype`."""
    allowed = TOLERANCES[dtype, False]
    return abs(one - other) <= allowed.mean + allowed.relative * max(abs(one), abs(other))


def _edges(content: Mapping[str, Any], size: str) -> int | None:
    """Number of edges of the random circuits beside the one of a size; None if that is not known."""
    circuits, edges = content["complexity"]["circuits"], int(content["complexity"]["features"])
    kept = int(circuits[size]["edges"])
    if size == HEADLINE:
        # One circuit, given outright; of several, the headline is one of the sizes.
        return kept if set(circuits) <= {HEADLINE, EMPTY} else None
    if not _SIZE.fullmatch(size):
        return None
    allowed = int(float(size) * edges)
    row = FORMATS.get(content["submission"]["method"]["format"] or "")
    return allowed if (row is not None and row.ranks_edges) or allowed == kept else None
