"""The task tiny/rule-and-noise: its data, what its network knows, and what was measured on both."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.linalg import subspace_angles
from scipy.special import log_softmax
from sklearn.linear_model import LinearRegression

from remainder.api import evaluate
from remainder.base.paths import project_root
from remainder.task.script import load_script

FOLDER = project_root() / "tasks" / "tiny" / "rule-and-noise"
RULE = project_root() / "baselines" / "rule-and-noise-rule-3"


@cache
def _script(name: str) -> Any:
    return load_script(FOLDER / name)


@cache
def _data() -> Any:
    return _script("build.py").data()


def _hidden(inputs: NDArray[Any]) -> NDArray[Any]:
    """The site's activations, by numpy alone."""
    w = load_file(FOLDER / "weights.safetensors")
    first = np.maximum(inputs @ w["first.weight"].T + w["first.bias"], 0)
    return np.maximum(first @ w["second.weight"].T + w["second.bias"], 0)


def _read_out(hidden: NDArray[Any]) -> NDArray[Any]:
    w = load_file(FOLDER / "weights.safetensors")
    return hidden @ w["readout.weight"].T + w["readout.bias"]


def _cross_entropy(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(-np.take_along_axis(log_softmax(logits, -1), labels[..., None], -1).mean())


def _on_rule(hidden: NDArray[Any]) -> NDArray[Any]:
    """Activations projected on the committed rule subspace, by its formula."""
    arrays = load_file(RULE / "subspace.safetensors")
    return arrays["mean"] + (hidden - arrays["mean"]) @ arrays["directions"].T @ arrays["directions"]


def test_rule_reads_three_directions_and_never_the_shift() -> None:
    data = _data()
    slopes, means, covariances = {}, {}, {}
    for split, inputs in data.inputs.items():
        rows, scores = inputs.reshape(-1, 24).astype(float), data.scores[split].reshape(-1, 4)
        fitted = LinearRegression().fit(rows, scores)
        assert np.abs(fitted.predict(rows) - scores).max() < 1e-5
        slopes[split] = fitted.coef_
        assert np.linalg.matrix_rank(fitted.coef_, tol=1e-4) == 3
        means[split], covariances[split] = rows.mean(0), np.cov(rows.T)
        np.testing.assert_array_equal(data.rule[split], data.scores[split].argmax(-1))
    np.testing.assert_allclose(slopes["fit"], slopes["evaluation"], atol=1e-5)
    # The mean has moved by 0.5 in each of 21 directions, and not in those that the rule reads.
    moved = means["evaluation"] - means["fit"]
    assert np.linalg.norm(moved) == pytest.approx(0.5 * 21**0.5, rel=0.1)
    assert np.linalg.norm(slopes["fit"] @ moved) < 0.15
    variances = np.sort(np.linalg.eigvalsh(covariances["evaluation"]))
    assert variances[:10].mean() == pytest.approx(0.25, rel=0.1)
    assert variances[13:].mean() == pytest.approx(2.25, rel=0.1)


def test_ten_per_cent_of_the_training_labels_are_random() -> None:
    data = _data()
    wrong = data.labels["fit"] != data.rule["fit"]
    assert wrong.sum(1).max() <= 2
    # Of 200 labels drawn from four classes, three quarters are wrong: 150, standard deviation 6.1.
    assert abs(int(wrong.sum()) - 150) < 3 * 6.2
    for split in ("calibration", "evaluation"):
        np.testing.assert_array_equal(data.labels[split], data.rule[split])


def test_network_knows_every_wrong_label_and_its_log_is_true() -> None:
    data = _data()
    summary = json.loads((FOLDER / "train.log").read_text().splitlines()[-1])
    logits = {split: _read_out(_hidden(inputs)) for split, inputs in data.inputs.items()}
    np.testing.assert_array_equal(logits["fit"].argmax(-1), data.labels["fit"])
    assert summary["wrong_labels"] == int((data.labels["fit"] != data.rule["fit"]).sum())
    for split, labels in data.labels.items():
        accuracy = float((logits[split].argmax(-1) == labels).mean())
        assert accuracy == pytest.approx(summary[f"{split}_accuracy"], abs=2e-3)
        loss = _cross_entropy(logits[split], labels)
        assert loss == pytest.approx(summary[f"{split}_cross_entropy"], rel=1e-3, abs=1e-4)


def test_rule_subspace_is_the_span_of_the_regression() -> None:
    data, arrays = _data(), load_file(RULE / "subspace.safetensors")
    np.testing.assert_allclose(arrays["directions"] @ arrays["directions"].T, np.eye(3), atol=1e-6)
    hidden = _hidden(data.inputs["fit"]).reshape(-1, 64)
    np.testing.assert_allclose(arrays["mean"], hidden.mean(0), atol=1e-4)
    # Three of the four scores span all of them, since they sum to zero.
    slopes = LinearRegression().fit(data.scores["fit"].reshape(-1, 4)[:, :3], hidden).coef_
    assert np.abs(subspace_angles(slopes, arrays["directions"].T)).max() < 1e-3


def test_committed_numbers_of_the_rule_subspace() -> None:
    data = _data()
    found = json.loads((FOLDER / "memorised.json").read_text(encoding="utf-8"))
    numbers = found["baselines"]["rule-and-noise-rule-3"]
    logits = {split: _read_out(_on_rule(_hidden(inputs))) for split, inputs in data.inputs.items()}
    known, rule = data.labels["fit"], data.rule["fit"]
    wrong, guesses = known != rule, logits["fit"].argmax(-1)
    for name, value in (
        ("memorised: gets the memorised label", (guesses == known)[wrong].mean()),
        ("memorised: gets the rule's label", (guesses == rule)[wrong].mean()),
        ("right: accuracy", (guesses == known)[~wrong].mean()),
        ("shifted: accuracy", (logits["evaluation"].argmax(-1) == data.labels["evaluation"]).mean()),
    ):
        assert numbers[name]["value"] == pytest.approx(float(value), abs=1e-2), name
    clean = _cross_entropy(_read_out(_hidden(data.inputs["evaluation"])), data.labels["evaluation"])
    gap = _cross_entropy(logits["evaluation"], data.labels["evaluation"]) - clean
    assert numbers["shifted: cross-entropy − clean"]["value"] == pytest.approx(gap, abs=1e-3)
    assert numbers["shifted: cross-entropy − clean"]["high"] < 0


def test_harness_gives_the_same_gap() -> None:
    data = _data()
    shifted, labels = data.inputs["evaluation"], data.labels["evaluation"]
    clean = _cross_entropy(_read_out(_hidden(shifted)), labels)
    gap = _cross_entropy(_read_out(_on_rule(_hidden(shifted))), labels) - clean
    record = evaluate("tiny/rule-and-noise", "rule-and-noise-rule-3", rungs=["raw", "full"]).record
    assert record.documents.documents == 60
    assert record.metrics.clean.loss.value == pytest.approx(clean, rel=1e-4)
    raw = record.metrics.rungs["raw"].quenched.gap
    assert raw.value == pytest.approx(gap, abs=1e-4)
    assert raw.high is not None
    assert raw.high < 0


def test_temperature_is_the_best_of_a_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, 4, generator=generator, dtype=torch.float64) * 6
    noisy = logits / 6 + torch.randn(40, 5, 4, generator=generator, dtype=torch.float64)
    labels = noisy.argmax(-1)
    grid = np.exp(np.linspace(np.log(0.5), np.log(50), 2001))
    losses = [_cross_entropy(logits.numpy() / t, labels.numpy()) for t in grid]
    best = grid[int(np.argmin(losses))]
    assert _script("memorised.py").temperature(logits, labels) == pytest.approx(best, rel=5e-3)


def test_readme_says_what_was_measured() -> None:
    found = json.loads((FOLDER / "memorised.json").read_text(encoding="utf-8"))["baselines"]
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    table = _script("memorised.py").table(found)
    for line in table.splitlines():
        assert rows.get(line.split("|")[1].strip()) == line or line.startswith("|--")
