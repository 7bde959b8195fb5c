"""Results of SAEBench, read to stand beside a record.

1. A result is a JSON file with `eval_type_id`, and `eval_result_metrics`: categories of metrics by name.
2. SAEBench writes −1 for a number that is NaN or was never measured; here the number is missing.

Source: SAEBench 0.6.0, `evals/base_eval_output.py`, `evals/core/main.py` (`replace_nans_with_negative_one`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from remainder.errors import RecordError

__all__ = ["saebench_result"]

_ABSENT = -1


def saebench_result(path: str | Path) -> pd.DataFrame:
    """One row per metric, in the file's order: `evaluation`, `category`, `metric`, `value` (NaN: missing).

    Names, units and masks are SAEBench's; the metrics of its `core` are fields of `record.compat.saebench`.

    Raises:
        RecordError: the file is not there, is not JSON, or is not a result of SAEBench.
    """
    place = Path(path)
    fix = "give a result that SAEBench wrote, such as eval_results/RELEASE_SAE_eval_results.json"
    try:
        content = json.loads(place.read_bytes())
    except FileNotFoundError as problem:
        raise RecordError(f"{place}: no such file", fix=fix) from problem
    except (OSError, ValueError) as problem:
        raise RecordError(f"{place}: is not readable JSON ({problem})", fix=fix) from problem
    metrics = content.get("eval_result_metrics") if isinstance(content, dict) else None
    if not isinstance(metrics, dict) or not isinstance(content.get("eval_type_id"), str):
        raise RecordError(
            f"{place}: has no object eval_result_metrics beside an eval_type_id: not a result of SAEBench",
            fix=fix,
        )
    rows = []
    for category, numbers in metrics.items():
        if not isinstance(numbers, dict):
            raise RecordError(
                f"{place}: eval_result_metrics.{category} is {type(numbers).__name__}, "
                "expected an object of metrics",
                fix=fix,
            )
        rows += [
            {
                "evaluation": content["eval_type_id"],
                "category": category,
                "metric": name,
                "value": _value(place, f"eval_result_metrics.{category}.{name}", number),
            }
            for name, number in numbers.items()
        ]
    table: pd.DataFrame = pd.DataFrame(rows, columns=["evaluation", "category", "metric", "value"])
    return table


def _value(path: Path, place: str, number: Any) -> float:
    if number is None or number == _ABSENT:
        return math.nan
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise RecordError(
            f"{path}: {place} is {number!r}, expected a number", fix="restore the file as it was written"
        )
    return float(number)
