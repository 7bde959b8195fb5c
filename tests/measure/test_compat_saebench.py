"""Results of SAEBench as it writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from remainder.errors import RecordError
from remainder.record.compat import PeerMetrics
from remainder.report.saebench import saebench_result

CORE = {
    "model_behavior_preservation": {
        "kl_div_score": 0.98,
        "kl_div_with_ablation": 10.1,
        "kl_div_with_sae": 0.2,
    },
    "model_performance_preservation": {
        "ce_loss_score": 0.97,
        "ce_loss_with_ablation": 12.0,
        "ce_loss_with_sae": 3.6,
        "ce_loss_without_sae": 3.3,
    },
    "reconstruction_quality": {
        "explained_variance": -1,
        "explained_variance_legacy": 0.7,
        "mse": 0.05,
        "cossim": -1.0,
    },
    "shrinkage": {
        "l2_norm_in": 100.0,
        "l2_norm_out": 90.0,
        "l2_ratio": 0.9,
        "relative_reconstruction_bias": 1.01,
    },
    "sparsity": {"l0": 32, "l1": 1000.0},
    "token_stats": {"total_tokens_eval_reconstruction": 20480, "total_tokens_eval_sparsity_variance": 2048},
}


def write(folder: Path, **changed: Any) -> Path:
    content = {
        "eval_type_id": "core",
        "eval_config": {"model_name": "pythia-70m-deduped"},
        "eval_id": "0",
        "datetime_epoch_millis": 1736500000000,
        "eval_result_metrics": CORE,
        "eval_result_details": [],
        "sae_lens_id": "custom_sae",
        **changed,
    }
    path = folder / "result.json"
    path.write_text(json.dumps(content))
    return path


def test_a_result_is_a_row_per_metric_in_the_file_s_order(tmp_path: Path) -> None:
    found = saebench_result(write(tmp_path))
    assert found.metric.tolist() == [name for numbers in CORE.values() for name in numbers]
    assert set(found.evaluation) == {"core"}
    values = found.set_index("metric").value
    assert values["ce_loss_with_sae"] == 3.6
    assert values["l0"] == 32
    assert found.category[0] == "model_behavior_preservation"


def test_minus_one_is_missing(tmp_path: Path) -> None:
    found = saebench_result(write(tmp_path))
    assert found.metric[found.value.isna()].tolist() == ["explained_variance", "cossim"]


def test_names_are_those_of_our_record(tmp_path: Path) -> None:
    metrics = set(saebench_result(write(tmp_path)).metric)
    ours = set(PeerMetrics.model_fields) - {"tokens"}
    assert ours <= metrics
    assert metrics - ours == {"l1", *CORE["token_stats"]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eval_result_metrics": None}, "no object eval_result_metrics"),
        ({"eval_type_id": 3}, "no object eval_result_metrics"),
        ({"eval_result_metrics": {"sparsity": 3}}, "eval_result_metrics.sparsity is int"),
        (
            {"eval_result_metrics": {"sparsity": {"l0": "many"}}},
            "sparsity.l0 is 'many', expected a number",
        ),
        ({"eval_result_metrics": {"sparsity": {"l0": True}}}, "expected a number"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        saebench_result(write(tmp_path, **changed))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file"):
        saebench_result(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"eval_type_id": ')
    with pytest.raises(RecordError, match="not readable JSON"):
        saebench_result(tmp_path / "cut.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(RecordError, match="not a result of SAEBench"):
        saebench_result(tmp_path / "list.json")
