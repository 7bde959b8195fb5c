"""Results of SAEBench: read to stand beside a record, and written from a record that has its metrics.

1. A result is a JSON file with `eval_type_id`, and `eval_result_metrics`: categories of metrics by name.
2. SAEBench writes −1 for a number that is NaN or was never measured; here the number is missing.
3. A result of the evaluation `core` has all metrics of `CORE`, whole numbers or floats, and settings.

Source: SAEBench 0.6.0, `evals/base_eval_output.py`, `evals/core/eval_output.py`, `evals/core/eval_config.py`,
`evals/core/main.py` (`replace_nans_with_negative_one`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from remainder.errors import RecordError
from remainder.record.compat import PeerMetrics
from remainder.record.number import Number
from remainder.record.part import part_of
from remainder.record.schema import Record

__all__ = ["CORE", "saebench_content", "saebench_name", "saebench_result"]

_ABSENT = -1

CORE: Mapping[str, tuple[str, ...]] = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    ),
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "mse", "cossim"),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
    "token_stats": ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"),
    "misc_metrics": (
        "freq_over_1_percent",
        "freq_over_10_percent",
        "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
        "frac_alive",
    ),
}
"""Metrics of SAEBench's evaluation `core` by category, in the order of its files."""
_SWITCHES = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
"""Metrics that its settings say were computed; a record has them all."""


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


def saebench_name(record: Record) -> str:
    """Name of the file of such a result: SAEBench's form, with the beginning of the record's id."""
    words = re.sub(r"[^\w.-]+", "-", f"{record.task.id}_{record.submission.name}")
    return f"{words}_{record.record_id[:12]}_eval_results.json"


def saebench_content(record: Record) -> dict[str, Any]:
    """A result of SAEBench's evaluation `core`, from the metrics that a record has under its names.

    What the record does not have is −1, as SAEBench writes it. Intervals, reasons and hashes stand in
    `eval_result_unstructured`. The text and its windows are those of the record's task.

    Raises:
        RecordError: the record has no such metrics, or one of them is −1.
    """
    if record.compat is None or record.compat.saebench is None:
        raise _without(record)
    metrics = record.compat.saebench
    numbers = {name: part for name, part in metrics if isinstance(part, Number)}
    written = datetime.fromisoformat(record.provenance.timestamp)
    version = record.provenance.packages.get("remainder", "unknown")
    return {
        "eval_type_id": "core",
        "eval_config": _config(record),
        "eval_id": record.record_id,
        "datetime_epoch_millis": int(1000 * written.timestamp()),
        "eval_result_metrics": {
            category: {name: _exported(record, metrics, name) for name in names}
            for category, names in CORE.items()
        },
        "eval_result_details": [],
        "sae_bench_commit_hash": f"none: measured by remainder {version}",
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": record.submission.name,
        "sae_lens_version": record.provenance.packages.get("sae-lens"),
        "sae_cfg_dict": None,
        "eval_result_unstructured": {
            "task": record.task.model_dump(mode="json"),
            "tier": record.tier,
            "submission_hash": record.submission.hash,
            "result_id": record.result_id,
            "intervals_95": {
                name: [one.low, one.high] for name, one in numbers.items() if one.low is not None
            },
            "reasons": {name: one.reason for name, one in numbers.items() if one.reason is not None},
        },
    }


def _config(record: Record) -> dict[str, Any]:
    """The settings, as far as the record tells them; the length of a window is not among them."""
    size, windows = record.measurement.batch_size, record.documents.windows
    batches = _ABSENT if size is None else math.ceil(windows / size)
    return {
        "model_name": record.model.source,
        "llm_dtype": "float32",
        "batch_size_prompts": _ABSENT if size is None else size,
        "n_eval_reconstruction_batches": batches,
        "n_eval_sparsity_variance_batches": batches,
        "dataset": record.corpus.source,
        "context_size": _ABSENT,
        **{f"compute_{name}": True for name in _SWITCHES},
        "compute_featurewise_density_statistics": False,
        "compute_featurewise_weight_based_metrics": False,
        "exclude_special_tokens_from_reconstruction": False,
        "verbose": False,
    }


def _exported(record: Record, metrics: PeerMetrics, name: str) -> float | int:
    """A metric as SAEBench writes it."""
    if name.startswith("total_tokens_"):
        return metrics.tokens
    number = getattr(metrics, name, None)
    if number is None or number.value is None:
        return _ABSENT
    if number.value == _ABSENT:
        raise RecordError(
            f"{record.submission.name} on {record.task.id}: {name} is −1, which in SAEBench's files "
            "stands for what is missing",
            fix="export it as csv or parquet",
        )
    value: float = number.value
    return value


def _without(record: Record) -> RecordError:
    """Why a record cannot be exported, and the run that makes one that can be."""
    name, task = record.submission.name, record.task.id
    part = part_of(record.tier)
    tier = record.tier if part is None else part.tier
    if record.is_of_circuits:
        return RecordError(
            f"{name} on {task} is a circuit: SAEBench's metrics are of reconstructions",
            fix="export it as csv or parquet",
        )
    return RecordError(
        f"the record of {name} on {task} has no metrics of SAEBench",
        fix=f"measure them, if it is a task of text: `remainder run {task} --with {name} --tier {tier} "
        "--rungs raw --dtype float32 --compat`, or evaluate(..., compat=True)",
    )
