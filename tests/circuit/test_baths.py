"""Shared and independent Gaussian baths on two heads whose outputs are correlated: closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from remainder.circuit.backgrounds import BACKGROUNDS, Background, Scene
from remainder.circuit.circuit import Circuit
from remainder.model.architecture import Graph
from remainder.model.plain import Layer, PlainCircuitModel
from remainder.task.prompts import Prompts


class Product(nn.Module):
    """Coordinates 4 and 5 of the stream multiplied, written to coordinate 6."""

    def forward(self, x: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos d"]:
        out = torch.zeros_like(x)
        out[..., 6] = x[..., 4] * x[..., 5]
        return out


class Nothing(nn.Module):
    def forward(self, x: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos d"]:
        return torch.zeros_like(x)


def two_heads(table: NDArray[np.float64]) -> PlainCircuitModel:
    """Tokens stand for pairs of numbers (s, t), `table` [tokens, 2], in coordinates 0 and 1 of the stream.

    Layer 0: head 0 copies s to coordinate 2, head 1 copies t to coordinate 3. Layer 1: head 0 copies what it
    reads of 2 and 3, added up, to coordinate 4, head 1 to 5, and the MLP writes their product, which is the
    logit of the first of two classes. Prompts have one token, so that every head attends to it.
    """

    def copies(*pairs: tuple[Sequence[int], int]) -> Layer:
        value, output = torch.zeros(2, 7, 1), torch.zeros(2, 1, 7)
        for head, (sources, target) in enumerate(pairs):
            value[head, list(sources)] = 1
            output[head, 0, target] = 1
        idle = torch.zeros(2, 7, 1)
        return Layer(idle, idle, value, output)

    first, second = copies(([0], 2), ([1], 3)), copies(([2, 3], 4), ([2, 3], 5))
    token = torch.zeros(len(table), 7)
    token[:, :2] = torch.from_numpy(table).float()
    unembedding = torch.zeros(7, 2)
    unembedding[6, 0] = 1
    layers = [
        Layer(one.query, one.key, one.value, one.output, mlp)
        for one, mlp in ((first, Nothing()), (second, Product()))
    ]
    return PlainCircuitModel(token, torch.zeros(1, 7), layers, unembedding, causal=True)


MEAN, COVARIANCE = np.array([0.3, -0.2]), np.array([[1.0, 0.6], [0.6, 0.8]])
BANK, ASKED = 40, 400


def one_token_prompts(name: str, tokens: NDArray[np.int64]) -> Prompts:
    count = len(tokens)
    return Prompts(
        template="pair",
        tokens=tokens[:, None],
        counterfactual=tokens[::-1, None].copy(),
        documents=tuple(f"{name}-{row}" for row in range(count)),
        scored=np.ones((count, 1), dtype=np.bool_),
        correct=np.zeros((count, 1, 1), dtype=np.int64),
        wrong=np.ones((count, 1, 1), dtype=np.int64),
    )


@cache
def toy() -> Scene:
    rng = np.random.default_rng(4)
    bank = rng.normal(size=(BANK, 2))
    # Made to have exactly this mean and, with M − 1, this covariance.
    bank -= bank.mean(0)
    bank = bank @ np.linalg.inv(np.linalg.cholesky(bank.T @ bank / (BANK - 1)).T)
    table = MEAN + bank @ np.linalg.cholesky(COVARIANCE).T
    asked = rng.integers(0, BANK, ASKED)
    return Scene(
        two_heads(table),
        one_token_prompts("calibration", np.arange(BANK)),
        one_token_prompts("evaluation", asked),
        seed=7,
    )


def without(whole: Circuit, edge: str) -> Circuit:
    kept = whole.kept.copy()
    kept[whole.graph.place(edge)] = False
    return Circuit(whole.graph, kept)


def answers(graph: Graph, removed: Sequence[str], background: Background, draws: int) -> NDArray[np.float64]:
    """The answer, logit of the first class less that of the second, [draws]: means over prompts.

    One draw of each antithetic pair: a product is the same for both, so they are no two draws of it.
    """
    whole = Circuit.full(graph)
    for edge in removed:
        whole = without(whole, edge)
    with torch.no_grad():
        logits = [toy().run(whole, background, 2 * draw).double() for draw in range(draws)]
    return np.array([float((one[..., 0] - one[..., 1]).mean()) for one in logits])


SHARED, INDEPENDENT = BACKGROUNDS["full"], BACKGROUNDS["full-independent"]
FIRST = ("a0.h0->a1.h0<v>", "a0.h1->a1.h0<v>")
SECOND = ("a0.h0->a1.h1<v>", "a0.h1->a1.h1<v>")


def test_shared_and_independent_baths_differ_by_the_covariance_of_what_two_receivers_read() -> None:
    """Both receivers lose both heads, and the logit is the product of what they read, s + t each.

    With a shared bath it is (s̃ + t̃)², of mean m² + v; with independent ones of mean m², where m is the mean
    of s + t and v its variance, covariances of the heads included. So the answer differs by v.
    """
    graph = toy().model.graph
    m, v = MEAN.sum(), COVARIANCE.sum()
    shared, independent = (answers(graph, FIRST + SECOND, kind, 60) for kind in (SHARED, INDEPENDENT))
    for found, expected in ((shared, m**2 + v), (independent, m**2)):
        error = found.std(ddof=1) / len(found) ** 0.5
        assert error < 0.05
        assert found.mean() == pytest.approx(expected, abs=4 * error)
    difference = shared - independent
    error = difference.std(ddof=1) / len(difference) ** 0.5
    assert difference.mean() == pytest.approx(v, abs=4 * error)
    assert v == pytest.approx(3.0), "heads apart would give 1.8: their covariance is in it"


def test_receivers_of_different_heads_lose_just_the_covariance() -> None:
    """One receiver loses head 0 and reads only it as removed, the other head 1.

    Kept edges carry this prompt's s and t: the product is (s̃ + t)(s + t̃), whose mean over the bath is
    (s̄ + t)(s + t̄) with independent baths, and Cov(s, t) more with a shared one.
    """
    graph = toy().model.graph
    removed = (FIRST[0], SECOND[1])
    tokens = toy().evaluation.tokens[:, 0]
    s, t = toy().model.token[tokens, :2].double().numpy().T
    expected = float(((MEAN[0] + t) * (s + MEAN[1])).mean())
    for kind, more in ((INDEPENDENT, 0.0), (SHARED, COVARIANCE[0, 1])):
        found = answers(graph, removed, kind, 60)
        error = found.std(ddof=1) / len(found) ** 0.5
        assert error < 0.05
        assert found.mean() == pytest.approx(expected + more, abs=4 * error)


def test_one_receiver_cannot_tell_the_baths_apart() -> None:
    """Only one receiver loses the heads: its bath has their covariance in either case.

    The product is (s̃ + t̃)(s + t), the other factor being this prompt's own: of mean m (s + t), and over
    draws of variance v (s + t)².
    """
    graph = toy().model.graph
    tokens = toy().evaluation.tokens[:, 0]
    own = toy().model.token[tokens, :2].double().sum(1).numpy()
    whole = without(without(Circuit.full(graph), FIRST[0]), FIRST[1])
    variances = {}
    for name, kind in (("shared", SHARED), ("independent", INDEPENDENT)):
        with torch.no_grad():
            passes = [toy().run(whole, kind, 2 * draw)[:, 0, 0] for draw in range(30)]
        read = torch.stack(passes).double().numpy() / own
        error = read.mean(1).std(ddof=1) / 30**0.5
        assert read.mean() == pytest.approx(MEAN.sum(), abs=4 * error)
        variances[name] = float(((read - MEAN.sum()) ** 2).mean())
    expected = COVARIANCE.sum()
    # 12,000 squares of Gaussians have a relative error of √(2 / 12,000).
    for found in variances.values():
        assert found == pytest.approx(expected, rel=4 * (2 / 12_000) ** 0.5)
