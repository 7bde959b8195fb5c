"""Attribution and patching against a reference that recomputes a model by hand, one edge at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from circuit_models import HEADS, SIZE, PlainModel, bridge_model, make_prompts
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import entropy, kstest
from torch import Tensor
from transformers import AutoModelForCausalLM

from remainder.circuit.attribution import ABLATIONS, Attribution, random_edges
from remainder.circuit.attribution_metric import agreement, answer
from remainder.errors import InterpretationError, MeasurementError
from remainder.model.architecture import Architecture, Graph
from remainder.task.prompts import PADDING, Prompts

MODELS = {
    "plain": PlainModel(),
    "grouped": PlainModel(groups=1, seed=1),
    "attention only": PlainModel(layers=3, groups=1, mlps=False, seed=2),
    "parallel": PlainModel(parallel=True, seed=3),
}
PROMPTS = (make_prompts(3, seed=4), make_prompts(2, template="short", positions=4, scored=2, seed=5))


def recompute(
    model: PlainModel,
    tokens: Tensor,
    mask: Tensor | None = None,
    removed: list[Tensor] | None = None,
    embedding: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what each writer adds to the stream [rows, positions, d], head by head.

    Reader v reads Σ_u written_u − Σ_u (1 − mask_uv) removed_u.
    """
    w, graph = model.weights, model.graph
    layers, groups = graph.architecture.layers, graph.architecture.groups
    written: list[Tensor] = [model.embed(tokens) if embedding is None else embedding]
    biases: list[Tensor] = []
    length = tokens.shape[1]
    causal = torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)

    def read(name: str, seen: int, constants: int) -> Tensor:
        total = sum(written[:seen], torch.zeros(())) + sum(biases[:constants], torch.zeros(()))
        if mask is not None and removed is not None:
            column = graph.readers.index(name)
            for writer in range(seen):
                total = total - (1 - mask[writer, column]) * removed[writer]
        return total

    for layer in range(layers):
        seen, heads = len(written), []
        for head in range(HEADS):
            group = head * groups // HEADS
            q, k, v = (
                model.norm(read(f"a{layer}.h{place}<{kind}>", seen, layer), f"{layer}.gain.a")
                @ w[f"{layer}.{kind}"][place]
                + w[f"{layer}.{kind}.bias"][place]
                for kind, place in (("q", head), ("k", group), ("v", group))
            )
            pattern = torch.softmax(q @ k.transpose(1, 2) / SIZE**0.5 + causal, -1)
            heads.append(pattern @ v @ w[f"{layer}.o"][head])
        written += heads
        biases.append(w[f"{layer}.o.bias"])
        if graph.architecture.mlps:
            late = graph.architecture.parallel
            x = read(f"m{layer}", seen if late else len(written), layer if late else layer + 1)
            hidden = model.bend(model.norm(x, f"{layer}.gain.m") @ w[f"{layer}.in"] + w[f"{layer}.in.bias"])
            written.append(hidden @ w[f"{layer}.out"] + w[f"{layer}.out.bias"])
    return model.norm(read("logits", len(written), layers), "gain") @ w["unembed"], written


def lead(logits: Tensor, prompts: Prompts) -> Tensor:
    """The answer of prompts with one right and one wrong token at each position, row by row."""
    found = []
    for row in range(len(prompts)):
        places = np.flatnonzero(prompts.scored[row])
        pairs = zip(places, prompts.correct[row, :, 0], prompts.wrong[row, :, 0], strict=True)
        found.append(
            sum(logits[row, p, right] - logits[row, p, wrong] for p, right, wrong in pairs) / len(places)
        )
    return torch.stack(found)


def removed_values(model: PlainModel, prompts: Prompts, ablation: str) -> list[Tensor]:
    """Clean minus background of every writer."""
    clean = recompute(model, torch.tensor(prompts.tokens))[1]
    if ablation == "counterfactual":
        return [
            a - b
            for a, b in zip(clean, recompute(model, torch.tensor(prompts.counterfactual))[1], strict=True)
        ]
    return clean if ablation == "zero" else [value - value.mean(0) for value in clean]


def by_hand(
    model: PlainModel,
    score: Callable[[Prompts, Tensor, list[Tensor]], Tensor],
    ablation: str = "counterfactual",
) -> NDArray[np.float64]:
    """The mean over all prompts of `score(prompts, mask of ones, removed values)`."""
    ones = torch.ones(model.graph.exists.shape, dtype=torch.float64)
    total = sum(
        score(prompts, ones.clone(), removed_values(model, prompts, ablation)).numpy() for prompts in PROMPTS
    )
    return np.asarray(total) / sum(len(prompts) for prompts in PROMPTS)


def gradient_by_hand(model: PlainModel, steps: int) -> NDArray[np.float64]:
    """∂ answer / ∂ mask at 1, by autograd through an explicit sum over writers."""

    def score(prompts: Prompts, mask: Tensor, removed: list[Tensor]) -> Tensor:
        mask.requires_grad_()
        tokens = torch.tensor(prompts.tokens)
        clean, other = model.embed(tokens), model.embed(torch.tensor(prompts.counterfactual))
        total = torch.zeros(())
        for step in range(1, steps + 1):
            moved = torch.lerp(other, clean, step / steps)
            total = total + lead(recompute(model, tokens, mask, removed, moved)[0], prompts).sum() / steps
        return torch.autograd.grad(total, mask)[0]

    return by_hand(model, score)


def patched_by_hand(model: PlainModel, ablation: str, *, nodes: bool) -> NDArray[np.float64]:
    def score(prompts: Prompts, mask: Tensor, removed: list[Tensor]) -> Tensor:
        tokens = torch.tensor(prompts.tokens)
        clean = lead(recompute(model, tokens)[0], prompts).sum()
        lost = torch.zeros(len(mask) if nodes else mask.shape, dtype=torch.float64)
        places = range(len(mask)) if nodes else map(tuple, np.argwhere(model.graph.exists))
        for place in places:
            changed = mask.clone()
            changed[place] = 0
            lost[place] = clean - lead(recompute(model, tokens, changed, removed)[0], prompts).sum()
        return lost

    return by_hand(model, score, ablation)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_of_these_tests_is_the_reference(name: str) -> None:
    model, tokens = MODELS[name], torch.tensor(PROMPTS[0].tokens)
    torch.testing.assert_close(model.run(tokens), recompute(model, tokens)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_patching_edges_equals_recomputing_the_model_for_each(name: str) -> None:
    found = Attribution(MODELS[name], PROMPTS).patched_edges()
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(
        found, patched_by_hand(MODELS[name], "counterfactual", nodes=False), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_patching_nodes_equals_recomputing_the_model_for_each(name: str, ablation: str) -> None:
    found = Attribution(MODELS[name], PROMPTS, ablation=ablation).patched_nodes()
    np.testing.assert_allclose(found, patched_by_hand(MODELS[name], ablation, nodes=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("steps", [1, 5])
def test_edge_attribution_is_the_derivative_by_a_mask_over_edges(name: str, steps: int) -> None:
    found = Attribution(MODELS[name], PROMPTS).edges(steps)
    np.testing.assert_allclose(found, gradient_by_hand(MODELS[name], steps), rtol=0, atol=1e-10)
    assert (found[~MODELS[name].graph.exists] == 0).all()


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_edge_attribution_is_what_little_of_an_edge_does(ablation: str) -> None:
    """Finite differences, with an edge exchanged by a hundred-thousandth."""
    model, small = MODELS["grouped"], 1e-5

    def score(prompts: Prompts, mask: Tensor, removed: list[Tensor]) -> Tensor:
        tokens, lost = torch.tensor(prompts.tokens), torch.zeros_like(mask)
        for place in map(tuple, np.argwhere(model.graph.exists)):
            values = []
            for sign in (1, -1):
                changed = mask.clone()
                changed[place] += sign * small
                values.append(lead(recompute(model, tokens, changed, removed)[0], prompts).sum())
            lost[place] = (values[0] - values[1]) / (2 * small)
        return lost

    found = Attribution(model, PROMPTS, ablation=ablation).edges()
    np.testing.assert_allclose(found, by_hand(model, score, ablation), rtol=0, atol=1e-6)


@pytest.mark.parametrize("groups", [1, HEADS])
def test_attribution_is_exact_where_the_model_is_linear(groups: int) -> None:
    attribution = Attribution(PlainModel(layers=3, groups=groups, linear=True), PROMPTS)
    exact = attribution.patched_edges()
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(attribution.edges(), exact, rtol=0, atol=1e-10)
    np.testing.assert_allclose(attribution.edges(steps=3), exact, rtol=0, atol=1e-10)
    np.testing.assert_allclose(attribution.nodes(), attribution.patched_nodes(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_group_scores_the_sum_of_its_heads(steps: int) -> None:
    model = MODELS["grouped"]
    apart = model.ungrouped()
    grouped, single = (Attribution(m, PROMPTS).edges(steps) for m in (model, apart))
    for name, column in model.graph.reader_index.items():
        if name.endswith(("<k>", "<v>")):
            node, kind = name.split(".h0")
            copies = [apart.graph.reader_index[f"{node}.h{head}{kind}"] for head in range(HEADS)]
        else:
            copies = [apart.graph.reader_index[name]]
        np.testing.assert_allclose(grouped[:, column], single[:, copies].sum(1), rtol=0, atol=1e-12)


def methods(attribution: Attribution) -> list[NDArray[np.float64]]:
    return [
        attribution.edges(),
        attribution.edges(steps=2) if attribution.ablation == "counterfactual" else attribution.edges(),
        attribution.nodes(),
        attribution.patched_edges(),
        attribution.patched_nodes(),
    ]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_batches_and_order_change_nothing(ablation: str) -> None:
    base = Attribution(MODELS["grouped"], PROMPTS, ablation=ablation, batch_size=2)
    turned = tuple(group.take(np.arange(len(group))[::-1].copy()) for group in reversed(PROMPTS))
    expected = methods(base)
    for changed in (
        replace(base, batch_size=1),
        replace(base, batch_size=100),
        replace(base, budget=1),
        replace(base, prompts=turned),
    ):
        for one, two in zip(methods(changed), expected, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)


def test_no_pass_has_more_rows_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PlainModel()
    rows: list[int] = []
    run = model.run

    def counting(tokens: Tensor, tap: Any = None) -> Tensor:
        rows.append(len(tokens))
        return run(tokens, tap)

    monkeypatch.setattr(model, "run", counting)
    prompts = (make_prompts(7),)
    one_row = 4 * len(model.graph.writers) * prompts[0].tokens.shape[1] * model.graph.architecture.width
    for attribution, most in (
        (Attribution(model, prompts, batch_size=3), 3),
        (Attribution(model, prompts, budget=2 * one_row), 2),
    ):
        rows.clear()
        attribution.edges(steps=2)
        assert max(rows) == most
    rows.clear()
    Attribution(model, prompts, batch_size=5).patched_nodes()
    assert max(rows) == 5


def test_a_positive_score_means_that_the_edge_helps() -> None:
    """Without the edges of largest score the answer falls; without those of smallest score it rises."""
    model = MODELS["plain"]
    scores = Attribution(model, PROMPTS).patched_edges()

    def change(which: int) -> float:
        place = np.unravel_index(np.argsort(scores, axis=None)[which], scores.shape)
        total = 0.0
        for prompts in PROMPTS:
            mask = torch.ones(scores.shape, dtype=torch.float64)
            mask[place] = 0
            tokens, removed = torch.tensor(prompts.tokens), removed_values(model, prompts, "counterfactual")
            without = lead(recompute(model, tokens, mask, removed)[0], prompts).sum()
            total += float(without - lead(recompute(model, tokens)[0], prompts).sum())
        return total

    assert change(-1) < -0.1 < 0.1 < change(0)


class OnHuggingFace:
    """A saved tiny model without this package, its heads, MLPs and norms reached by PyTorch's hooks."""

    def __init__(self, architecture: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(tiny.model_folder(architecture)).eval()
        self.gpt2 = architecture == "gpt2"
        body = self.model.transformer if self.gpt2 else self.model.model
        blocks = body.h if self.gpt2 else body.layers
        self.embed = body.wte if self.gpt2 else body.embed_tokens
        self.outs = [block.attn.c_proj if self.gpt2 else block.self_attn.o_proj for block in blocks]
        self.mlps = [block.mlp for block in blocks]
        self.norms = {"logits": body.ln_f if self.gpt2 else body.norm}
        for layer, block in enumerate(blocks):
            self.norms[f"a{layer}"] = block.ln_1 if self.gpt2 else block.input_layernorm
            self.norms[f"m{layer}"] = block.ln_2 if self.gpt2 else block.post_attention_layernorm
        self.values: dict[str, Tensor] = {}
        """Of the last pass, by node; of a head before the output matrix."""
        self.reads: dict[str, Tensor] = {}
        """By stage, a zero that the last pass added to what the stage reads, and to nothing else."""

    def run(self, tokens: Tensor, change: tuple[str, Tensor] | None = None) -> Tensor:
        """Logits; `change` gives a node another value."""

        def passed(name: str, value: Tensor) -> Tensor:
            self.values[name] = change[1] if change and change[0] == name else value
            return self.values[name]

        def heads(layer: int, module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            parts = args[0].chunk(4, dim=-1)
            return (torch.cat([passed(f"a{layer}.h{head}", part) for head, part in enumerate(parts)], -1),)

        def mlp(layer: int, module: Any, args: Any, value: Tensor) -> Tensor:
            return passed(f"m{layer}", value)

        def norm(stage: str, module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self.reads[stage] = torch.zeros_like(args[0], requires_grad=True)
            return (args[0] + self.reads[stage],)

        handles = [
            *(part.register_forward_pre_hook(partial(heads, n)) for n, part in enumerate(self.outs)),
            *(part.register_forward_hook(partial(mlp, n)) for n, part in enumerate(self.mlps)),
            *(part.register_forward_pre_hook(partial(norm, name)) for name, part in self.norms.items()),
        ]
        try:
            logits: Tensor = self.model(tokens).logits
        finally:
            for handle in handles:
                handle.remove()
        return logits

    def written(self, node: str, value: Tensor) -> Tensor:
        """What a node's value adds to the stream."""
        if node.startswith("m"):
            return value
        layer, head = map(int, node[1:].split(".h"))
        matrix = self.outs[layer].weight if self.gpt2 else self.outs[layer].weight.T
        return value @ matrix.chunk(4)[head]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_language_models_score_as_hooks_on_their_modules_say(architecture: str) -> None:
    prompts = make_prompts(3, positions=6, vocabulary=tiny.VOCABULARY)
    attribution = Attribution(bridge_model(architecture), (prompts,))
    graph, plain = attribution.model.graph, OnHuggingFace(architecture)
    tokens, other_tokens = torch.tensor(prompts.tokens), torch.tensor(prompts.counterfactual)
    plain.run(other_tokens)
    other = dict(plain.values)
    logits = plain.run(tokens)
    clean, reads = dict(plain.values), dict(plain.reads)
    assert sorted(["input", *clean]) == sorted(graph.writers)
    answer_of_clean = lead(logits, prompts)
    found = torch.autograd.grad(answer_of_clean.mean(), [*clean.values(), *reads.values()])
    of_value = dict(zip(clean, found, strict=False))
    of_read = dict(zip(reads, found[len(clean) :], strict=True))

    with torch.no_grad():
        differences = {name: clean[name] - other[name] for name in clean}
        of_nodes = {name: float((value * of_value[name]).sum()) for name, value in differences.items()}
        exact = {}
        for name in clean:
            changed = lead(plain.run(tokens, (name, other[name])), prompts)
            exact[name] = float((answer_of_clean - changed).mean())
        # The readers of a stage read one stream, so that together they score by its gradient.
        written = {name: plain.written(name, value) for name, value in differences.items()}
        written["input"] = plain.embed(tokens) - plain.embed(other_tokens)
        of_stages = {
            (name, stage.name): float((written[name] * of_read[stage.name]).sum())
            for stage in graph.stages[1:]
            for name in graph.writers[: stage.sees]
        }

    nodes, patched, edges = attribution.nodes(), attribution.patched_nodes(), attribution.edges()
    places = [graph.writer_index[name] for name in clean]
    columns = {stage.name: edges[:, stage.readers].sum(1) for stage in graph.stages}
    by_stage = [columns[stage][graph.writer_index[name]] for name, stage in of_stages]
    for got, expected in (
        (nodes[places], of_nodes),
        (patched[places], exact),
        (by_stage, of_stages),
    ):
        wanted = list(expected.values())
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_the_answer_is_a_difference_of_log_sums() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 3, 7))
    prompts = make_prompts(
        2,
        positions=3,
        vocabulary=7,
        scored=2,
        correct=np.array([[[1, 2, PADDING], [0, PADDING, PADDING]], [[3, PADDING, 4], [5, 6, 0]]]),
        wrong=np.array([[[3, 4], [1, PADDING]], [[PADDING, PADDING], [1, 2]]]),
    )
    right = [[[1, 2], [0]], [[3, 4], [5, 6, 0]]]
    wrong = [[[3, 4], [1]], [[0, 1, 2, 5, 6], [1, 2]]]  # none named: all others
    expected = [
        np.mean(
            [
                logsumexp(logits[row, 1 + p, right[row][p]]) - logsumexp(logits[row, 1 + p, wrong[row][p]])
                for p in range(2)
            ]
        )
        for row in range(2)
    ]
    found = answer(torch.tensor(logits), torch.tensor(logits), prompts)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    none_named = replace(prompts, wrong=np.zeros((2, 2, 0), dtype=np.int64))
    everything = answer(torch.tensor(logits), torch.tensor(logits), none_named)
    others = [i for i in range(7) if i not in (5, 6, 0)]
    pair = logsumexp(logits[1, 2, [5, 6, 0]]) - logsumexp(logits[1, 2, others])
    first = logsumexp(logits[1, 1, [3, 4]]) - logsumexp(logits[1, 1, [0, 1, 2, 5, 6]])
    assert float(everything[1]) == pytest.approx((pair + first) / 2)


def test_agreement_is_minus_the_divergence_from_the_clean_prediction() -> None:
    generator = np.random.default_rng(1)
    new, clean = generator.normal(size=(2, 3, 4, 7))
    prompts = make_prompts(3, positions=4, vocabulary=7, scored=2)
    found = agreement(torch.tensor(new), torch.tensor(clean), prompts)
    p, q = np.exp(clean[:, 2:]), np.exp(new[:, 2:])
    np.testing.assert_allclose(found, -entropy(p, q, axis=-1).mean(1), rtol=1e-12)
    assert agreement(torch.tensor(clean), torch.tensor(clean), prompts).abs().max() < 1e-12


def test_with_the_divergence_only_integrated_gradients_see_anything() -> None:
    attribution = Attribution(MODELS["plain"], PROMPTS, metric=agreement)
    exact = attribution.patched_edges()
    # Divergences are positive: no edge's removal makes the prediction more like itself.
    assert exact.min() > -1e-12
    assert exact.max() > 1e-3
    assert np.abs(attribution.edges()).max() < 1e-12
    assert np.abs(attribution.edges(steps=5)).max() > 1e-3


def test_random_scores_are_uniform_and_of_their_seed() -> None:
    graph = Graph(Architecture(layers=6, heads=4, groups=2, width=8))
    scores = random_edges(graph, 3)
    assert (scores[~graph.exists] == 0).all()
    assert kstest(scores[graph.exists], "uniform").pvalue > 0.01
    assert (scores == random_edges(graph, 3)).all()
    assert (scores != random_edges(graph, 4))[graph.exists].all()


def test_what_cannot_be_scored_is_refused() -> None:
    model = MODELS["plain"]
    with pytest.raises(InterpretationError, match="no prompts"):
        Attribution(model, ())
    with pytest.raises(InterpretationError, match="ablation 'noise'; expected counterfactual, zero"):
        Attribution(model, PROMPTS, ablation="noise")
    with pytest.raises(InterpretationError, match="batch size of 0"):
        Attribution(model, PROMPTS, batch_size=0)
    with pytest.raises(InterpretationError, match="0 steps"):
        Attribution(model, PROMPTS).edges(0)
    with pytest.raises(InterpretationError, match="2 steps of integrated gradients with ablation 'zero'"):
        Attribution(model, PROMPTS, ablation="zero").edges(2)


def test_scores_that_are_not_finite_are_refused() -> None:
    """Where every token is right, none is left to be wrong."""
    every = np.tile(np.arange(11), (2, 1, 1))
    prompts = make_prompts(2, correct=every, wrong=np.zeros((2, 1, 0), dtype=np.int64))
    with pytest.raises(MeasurementError, match="NaN or infinite"):
        Attribution(MODELS["plain"], (prompts,)).patched_nodes()


def test_progress_ends_where_it_should() -> None:
    said: list[tuple[str, int, int | None]] = []
    attribution = Attribution(
        MODELS["plain"], PROMPTS, batch_size=2, progress=lambda *what: said.append(what)
    )
    attribution.edges()
    assert said[-1] == ("edge attribution", 5, 5)
    attribution.patched_nodes()
    assert said[-1] == ("patching nodes", 45, 45)
