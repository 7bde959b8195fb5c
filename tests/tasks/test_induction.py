"""The induction tasks: sequences by brute force, the model by another attention, heads by cutting weights."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from remainder.base.paths import project_root
from remainder.loading.open import open_task
from remainder.loading.site import ScriptTask
from remainder.task.script import Built, load_script

FOLDER = project_root() / "tasks" / "tiny" / "induction"
TASKS = {"tiny/induction": 0, "tiny/induction-heads": 1}


@cache
def opened(name: str) -> ScriptTask:
    task = open_task(name, device="cpu")
    assert isinstance(task, ScriptTask)
    return task


@cache
def report() -> dict[str, Any]:
    found = json.loads((FOLDER / "heads.json").read_text())
    assert isinstance(found, dict)
    return found


def built() -> Built:
    return opened("tiny/induction").built


def test_sequences_repeat_what_is_scored_exactly_once() -> None:
    lengths = set()
    for examples in built().examples.values():
        assert examples.scored is not None
        for row, targets, scored in zip(examples.inputs, examples.targets, examples.scored, strict=True):
            tokens = [*row.tolist(), int(targets[-1])]
            assert tokens[1:] == targets.tolist()
            first = int(scored.argmax())
            assert scored.tolist() == [i >= first for i in range(63)]
            length = 64 - first
            lengths.add(length)
            assert tokens[first:] == tokens[first - length : first]
            assert len(set(tokens[:first])) == first, "one earlier occurrence, so one continuation"
    assert lengths == set(range(24, 33))


def test_splits_differ_and_follow_the_seed() -> None:
    script = load_script(FOLDER / "build.py")
    one, again, other = (script.build(seed, FOLDER, windows=4).examples for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["fit"].inputs, again["fit"].inputs)
    assert (one["fit"].inputs != other["fit"].inputs).any()
    rows = [tuple(row) for examples in built().examples.values() for row in examples.inputs.tolist()]
    assert len(set(rows)) == len(rows)
    names = [name for examples in built().examples.values() for name in examples.documents]
    assert len(set(names)) == len(names)


@torch.no_grad()
def attended(
    model: torch.nn.Module, tokens: Tensor, keep: dict[int, tuple[list[int], Tensor]] | None = None
) -> Float[Tensor, "windows pos vocabulary"]:
    """The network by torch's own attention; heads that are not kept add the same vector everywhere."""
    weights = model.state_dict()
    x = weights["embedding.weight"][tokens] + weights["position.weight"]
    for i in (0, 1):
        q, k, v = (
            (x @ weights[f"layer_{i}.{part}.weight"].T).reshape(*x.shape[:2], 4, 16).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        z = scaled_dot_product_attention(q, k, v, is_causal=True)
        out = weights[f"layer_{i}.output.weight"]
        heads, mean = (keep or {}).get(i, (list(range(4)), torch.zeros(64)))
        for head in range(4):
            part = slice(16 * head, 16 * head + 16)
            x = x + (z[:, head] @ out[:, part].T if head in heads else out[:, part] @ mean[part])
    return x @ weights["unembedding.weight"].T


def scored_loss(logits: Tensor, split: str) -> tuple[float, float]:
    examples = built().examples[split]  # type: ignore[index]
    assert examples.scored is not None
    mask = torch.from_numpy(examples.scored)
    wanted = torch.from_numpy(examples.targets)[mask]
    right = (logits[mask].argmax(-1) == wanted).double().mean()
    return float(cross_entropy(logits[mask], wanted)), float(right)


def test_the_model_is_a_plain_transformer_that_continues_sequences() -> None:
    tokens = torch.from_numpy(built().examples["evaluation"].inputs)
    with torch.no_grad():
        logits = built().module(tokens)
    torch.testing.assert_close(logits, attended(built().module, tokens), atol=1e-3, rtol=1e-4)
    loss, accuracy = scored_loss(logits, "evaluation")
    assert loss < 0.02
    assert accuracy > 0.99
    shuffled = tokens.clone()
    shuffled[:, :32] = tokens[:, torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        assert scored_loss(built().module(shuffled), "evaluation")[1] < 0.5, "it must read the order"


def test_weights_are_small_and_halved() -> None:
    path = FOLDER / "weights.safetensors"
    assert path.stat().st_size < 150_000
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    summary = json.loads((FOLDER / "train.log").read_text().splitlines()[-1])
    assert abs(summary["held_out_float16"]["accuracy"] - summary["held_out_float32"]["accuracy"]) < 2e-3


def test_attention_scores_are_those_of_loops() -> None:
    model, examples = copy.deepcopy(built().module), built().examples["fit"]
    assert examples.scored is not None
    tokens = torch.from_numpy(examples.inputs[:12])
    heads = load_script(FOLDER / "heads.py")
    with torch.no_grad():
        x = model.embedding(tokens) + model.position.weight
        first = model.layer_0.pattern(x)
        x = x + model.layer_0.output(model.layer_0.mixed(x))
        second = model.layer_1.pattern(x)
    scored = torch.from_numpy(examples.scored[:12])
    for pattern, layer in ((first, 0), (second, 1)):
        previous, induction = np.zeros(4), np.zeros(4)
        for window in range(12):
            row, length = tokens[window].tolist(), 64 - int(scored[window].int().argmax())
            for t in range(1, 63):
                previous += pattern[window, :, t, t - 1].numpy() / (12 * 62)
                if t >= 64 - length:
                    assert row[t - length] == row[t]
                    induction += pattern[window, :, t, t - length + 1].numpy() / int(scored.sum())
        np.testing.assert_allclose(heads.previous_token_scores(pattern), previous, atol=1e-5)
        np.testing.assert_allclose(heads.induction_scores(pattern, tokens, scored), induction, atol=1e-5)
        # Twelve windows of 256: the report is of all.
        np.testing.assert_allclose(previous, report()["attention"][f"previous_token_{layer}"], atol=0.03)
        np.testing.assert_allclose(induction, report()["attention"][f"induction_{layer}"], atol=0.08)


@pytest.mark.parametrize("name", TASKS)
def test_circuit_is_the_smallest_set_of_heads_that_does(name: str) -> None:
    tokens = torch.from_numpy(built().examples["fit"].inputs)
    mean = opened(name).rows("fit").mean(0)
    found = report()[name]
    losses = {}
    for one in found["kept"]:
        loss, accuracy = scored_loss(
            attended(built().module, tokens, {TASKS[name]: (one["heads"], mean)}), "fit"
        )
        assert loss == pytest.approx(one["loss"], rel=1e-3, abs=1e-5)
        assert accuracy == pytest.approx(one["accuracy"], abs=1e-3)
        losses[tuple(one["heads"])] = loss
    assert len(losses) == 16
    clean, empty = losses[0, 1, 2, 3], losses[()]
    circuit, other = tuple(found["circuit"]), tuple(found["other"])
    share = {heads: (loss - clean) / (empty - clean) for heads, loss in losses.items()}
    assert share[circuit] == pytest.approx(found["share_of_gap"], rel=0.01)
    assert share[circuit] <= 0.05
    assert not [heads for heads in share if len(heads) < len(circuit) and share[heads] <= 0.05]
    assert all(share[circuit] <= share[heads] for heads in share if len(heads) == len(circuit))
    assert len(other) == len(circuit)
    assert share[other] > 3 * share[circuit]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", ["circuit", "other"])
def test_baselines_keep_these_heads(name: str, kind: str) -> None:
    stored = load_file(
        project_root() / "baselines" / f"{name.removeprefix('tiny/')}-{kind}" / "subspace.safetensors"
    )
    rows = opened(name).rows("fit")
    torch.testing.assert_close(stored["mean"], rows.mean(0))
    kept = np.zeros(64)
    for head in report()[name][kind]:
        kept[16 * head : 16 * head + 16] = 1
    directions = stored["directions"].double().numpy()
    np.testing.assert_array_equal(directions.T @ directions, np.diag(kept))
