"""Addition modulo 113: the model has grokked, and what is stored about it can be found again."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from safetensors.numpy import load_file

from remainder.base.paths import project_root
from remainder.loading.open import open_task
from remainder.loading.site import ScriptTask
from remainder.submission.open import baselines_for, open_submission
from remainder.task.script import Examples, load_script

TASK, P = "tiny/modular-addition", 113
FOLDER = project_root() / "tasks" / TASK
BASELINES = project_root() / "baselines"
KEY, REGRESSION = "modular-addition-key-frequencies", "modular-addition-regression"

Array = NDArray[Any]


@cache
def task() -> ScriptTask:
    opened = open_task(TASK, device="cpu")
    assert isinstance(opened, ScriptTask)
    return opened


@cache
def weights() -> dict[str, Array]:
    return {k: v.astype(np.float64) for k, v in load_file(FOLDER / "weights.safetensors").items()}


def mlp(pairs: Array) -> tuple[Array, Array]:
    """Residual stream before and activation of the MLP at '=' for pairs [n, 2], token by token in numpy."""
    w = weights()
    tokens = np.concatenate([pairs, np.full((len(pairs), 1), P)], 1)
    stream = w["W_E"][tokens] + w["W_pos"]  # [n, 3, d_model]
    middle = stream[:, 2].copy()
    for head in range(len(w["W_Q"])):
        q, k, v = (stream @ w[name][head] for name in ("W_Q", "W_K", "W_V"))
        scores = np.einsum("ne,nse->ns", q[:, 2], k) / np.sqrt(q.shape[-1])
        pattern = np.exp(scores - scores.max(1, keepdims=True))
        pattern /= pattern.sum(1, keepdims=True)
        middle += np.einsum("ns,nse->ne", pattern, v) @ w["W_O"][head]
    return middle, np.maximum(middle @ w["W_in"] + w["b_in"], 0)


def logits(middle: Array, activation: Array) -> Array:
    w = weights()
    return (middle + activation @ w["W_out"] + w["b_out"]) @ w["W_U"]


def accuracy(outputs: Array, pairs: Array) -> float:
    return float((outputs.argmax(-1) == pairs.sum(-1) % P).mean())


def scored(split: str) -> Array:
    """The scored pairs of a split, [n, 2]."""
    examples = task().built.examples[split]  # type: ignore[index]
    assert examples.scored is not None
    return examples.inputs[examples.scored]


def key_frequencies() -> list[int]:
    """Frequencies that stand out in the embedding of a number, by its Fourier transform over all numbers."""
    power = (np.abs(np.fft.rfft(weights()["W_E"][:P], axis=0)) ** 2).sum(1)[1:]
    return sorted(int(k) + 1 for k in np.flatnonzero(power > 0.05 * power.sum()))


def waves(frequencies: list[int], numbers: Array) -> Array:
    angles = 2 * np.pi * np.outer(numbers, frequencies) / P
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


def stored(name: str) -> dict[str, Array]:
    return load_file(BASELINES / name / "subspace.safetensors")


def cosines(rows: Array, others: Array) -> Array:
    """Of the principal angles between the spans of two sets of rows."""
    return np.linalg.svd(np.linalg.qr(rows.T)[0].T @ np.linalg.qr(others.T)[0], compute_uv=False)


def test_every_pair_lies_in_one_document_together_with_its_mirror():
    places: dict[tuple[int, int], str] = {}
    for examples in task().built.examples.values():
        for document, pairs in zip(examples.documents, examples.inputs, strict=True):
            for a, b in pairs.tolist():
                assert (a, b) not in places
                places[a, b] = document
    assert len(places) == P * P
    assert all(places[b, a] == document for (a, b), document in places.items())


def test_documents_of_splits_are_disjoint_and_enough():
    examples: dict[str, Examples] = dict(task().built.examples)
    names = {split: set(part.documents) for split, part in examples.items()}
    assert {split: len(part) for split, part in names.items()} == {
        "evaluation": 40,
        "calibration": 35,
        "fit": 38,
    }
    assert len(set.union(*names.values())) == P


def test_scored_pairs_were_trained_on_in_neither_order():
    trained = {tuple(pair) for pair in load_script(FOLDER / "model.py").training_pairs().tolist()}
    assert len(trained) == 0.6 * P * (P + 1) // 2
    everything = np.concatenate([part.inputs for part in task().built.examples.values()]).reshape(-1, 2)
    expected = {(a, b) for a, b in everything.tolist() if (a, b) not in trained and (b, a) not in trained}
    found = {tuple(pair) for split in ("fit", "calibration", "evaluation") for pair in scored(split).tolist()}
    assert found == expected
    assert all(part.scored.any(1).all() for part in task().built.examples.values())  # type: ignore[union-attr]


def test_the_model_has_grokked_and_is_the_transformer_it_says():
    pairs = np.concatenate([scored(split) for split in ("evaluation", "calibration", "fit")])
    middle, activation = mlp(pairs)
    outputs = logits(middle, activation)
    assert accuracy(outputs, pairs) >= 0.999
    with torch.inference_mode():
        found = task().built.module(torch.from_numpy(pairs)).numpy()
    np.testing.assert_allclose(found, outputs, atol=1e-3)


def test_the_log_tells_of_the_stored_weights():
    summary = json.loads((FOLDER / "train.log").read_text(encoding="utf-8").splitlines()[-1])
    pairs = np.concatenate([scored(split) for split in ("evaluation", "calibration", "fit")])
    outputs = logits(*mlp(pairs))
    shifted = outputs - outputs.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = -log_p[np.arange(len(pairs)), pairs.sum(1) % P].mean()
    assert summary["held_out_pairs"] == len(pairs)
    assert summary["held_out_accuracy_float16"] == pytest.approx(accuracy(outputs, pairs), abs=1e-5)
    assert summary["held_out_loss_float16"] == pytest.approx(loss, rel=1e-3)
    assert summary["held_out_loss_float32"] == pytest.approx(loss, rel=2e-3)  # float16 loses nothing


def test_the_site_is_the_mlp_after_its_relu():
    runner = task().runner("float32")
    inputs = torch.from_numpy(task().built.examples["evaluation"].inputs[:2])
    pairs = inputs.numpy().reshape(-1, 2)
    middle, activation = mlp(pairs)
    with torch.inference_mode():
        prefix = runner.prefix(inputs)
        zeroed = runner.suffix(inputs, prefix, torch.zeros_like(prefix.x_out))
    np.testing.assert_allclose(prefix.x_out.reshape(len(pairs), -1).numpy(), activation, atol=1e-4)
    np.testing.assert_allclose(
        zeroed.reshape(len(pairs), -1).numpy(), logits(middle, np.zeros_like(activation)), atol=1e-3
    )


def test_key_frequencies_of_the_subspace_are_those_of_the_embedding():
    log = json.loads((BASELINES / KEY / "make_subspace.log").read_text(encoding="utf-8"))
    assert log["key_frequencies"] == key_frequencies()
    # The read-out of frequency k is the k-th Fourier component of W_out W_U over the classes.
    w = weights()
    components = np.fft.rfft(w["W_out"] @ w["W_U"], axis=1)[:, key_frequencies()]
    rows = np.concatenate([components.real, components.imag], 1).T
    directions = stored(KEY)["directions"]
    assert directions.shape == rows.shape == (log["rank"], 512)
    np.testing.assert_allclose(cosines(directions, rows), 1, atol=1e-5)


def test_regression_directions_are_those_of_least_squares_on_fit():
    pairs = task().built.examples["fit"].inputs.reshape(-1, 2)
    activation = mlp(pairs)[1]
    columns = waves(key_frequencies(), pairs.sum(1))
    # Slopes are the least-squares solution for centred columns.
    slopes = np.linalg.pinv(columns - columns.mean(0)) @ (activation - activation.mean(0))
    np.testing.assert_allclose(cosines(stored(REGRESSION)["directions"], slopes), 1, atol=1e-5)


@pytest.mark.parametrize("name", [KEY, REGRESSION])
def test_rows_of_the_subspaces_are_orthonormal_and_the_mean_is_that_of_fit(name: str):
    arrays = stored(name)
    directions = arrays["directions"].astype(np.float64)
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-6)
    activation = mlp(task().built.examples["fit"].inputs.reshape(-1, 2))[1]
    np.testing.assert_allclose(arrays["mean"], activation.mean(0), atol=1e-4)


def test_the_subspace_keeps_the_answers_that_principal_components_lose():
    pairs = scored("evaluation")
    middle, activation = mlp(pairs)
    fit = mlp(task().built.examples["fit"].inputs.reshape(-1, 2))[1]
    mean, directions = fit.mean(0), stored(KEY)["directions"]
    principal = np.linalg.svd(fit - mean, full_matrices=False)[2][: len(directions)]
    kept, explained = {}, {}
    for name, rows in (("key", directions), ("principal", principal)):
        reconstruction = mean + (activation - mean) @ rows.T @ rows
        kept[name] = accuracy(logits(middle, reconstruction), pairs)
        explained[name] = 1 - ((activation - reconstruction) ** 2).sum() / ((activation - mean) ** 2).sum()
    assert kept["key"] >= 0.999
    assert kept["principal"] < 0.5
    assert explained["key"] < explained["principal"]


def test_every_baseline_of_the_task_has_its_size():
    names = {entry.name for entry in baselines_for(task().task)}
    expected = {"key-frequencies", "regression", "pca", "random", "topk-sae", "topk-sae-6"}
    assert {f"modular-addition-{name}" for name in expected} <= names
    rank = len(stored(KEY)["directions"])
    for name in ("pca", "random"):
        assert open_submission(BASELINES / f"modular-addition-{name}").method.get("rank") == rank
    for name, latents in (("topk-sae", 256), ("topk-sae-6", rank)):
        sae = SAE.load_from_disk(BASELINES / f"modular-addition-{name}" / "weights", dtype="float32")
        assert (sae.cfg.architecture(), sae.cfg.d_sae, sae.cfg.k) == ("topk", latents, rank)


def test_weights_are_small():
    assert (FOLDER / "weights.safetensors").stat().st_size <= 600_000
    for path in BASELINES.glob("modular-addition-*/**/*.safetensors"):
        assert path.stat().st_size <= 550_000
