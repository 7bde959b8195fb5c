"""Circuits of features against passes written out node by node, in float64, and cases done by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import circuit_models
import numpy as np
import pytest
import tiny
import torch
from circuit_models import make_prompts
from torch import Tensor

from remainder.circuit.attribution_metric import answer
from remainder.circuit.feature_circuits import FeatureCircuits
from remainder.circuit.feature_graph import FeatureGraph, FeatureNode
from remainder.circuit.feature_scores import (
    ABLATIONS,
    THRESHOLDS,
    at_threshold,
    circuit_of_graph,
    load_scores,
    save_scores,
    score_nodes,
)
from remainder.circuit.features import BACKGROUNDS, ERRORS, FeatureCircuit, FeatureScene, FeatureSite
from remainder.errors import InterpretationError, MeasurementError, TaskError
from remainder.interpretation.protocol import adapt
from remainder.interpretation.references import Identity
from remainder.loading.behaviour import BehaviourFacts, TemplateFacts
from remainder.loading.prompts import PromptTask
from remainder.measure.feature_circuits import FeatureRun
from remainder.measure.plan import plan
from remainder.measure.seal import Log
from remainder.model.graph import CircuitModel
from remainder.model.sites import BridgeSiteModel, Edits, SiteModel, run_from
from remainder.record.circuit_summary import rung_at
from remainder.record.schema import MethodInfo, Pinned, SubmissionInfo
from remainder.record.store import StoredRecord
from remainder.residual.noise import NoiseKeys, indices
from remainder.task.prompts import Prompts
from remainder.task.spec import CircuitSpec
from remainder.task.text import Split

VOCABULARY, WIDTH, LATENTS, POSITIONS = 7, 4, 6, 4


def random(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Chain:
    """Two hooks, `a` and `b`, with something between that mixes positions; a `SiteModel` in float64."""

    linear: bool = False
    embed: Tensor = field(default_factory=lambda: random(VOCABULARY, WIDTH, seed=1))
    between: Tensor = field(default_factory=lambda: 0.7 * random(WIDTH, WIDTH, seed=2))
    unembed: Tensor = field(default_factory=lambda: random(WIDTH, VOCABULARY, seed=3))

    def middle(self, x: Tensor) -> Tensor:
        counts = torch.arange(1, x.shape[-2] + 1, dtype=x.dtype)[:, None]
        mixed = (x.cumsum(-2) / counts) @ self.between
        return x + (mixed if self.linear else mixed.tanh())

    def run(self, inputs: Tensor, edits: Edits, positions: Sequence[int] | None = None) -> Tensor:
        logits = (
            self._edit("b", self.middle(self._edit("a", self.embed[inputs], edits)), edits) @ self.unembed
        )
        return logits if positions is None else logits[:, list(positions)]

    def activation(self, inputs: Tensor, edits: Edits, hook: str) -> Tensor:
        return self.embed[inputs] if hook == "a" else self.middle(self._edit("a", self.embed[inputs], edits))

    @staticmethod
    def _edit(hook: str, x: Tensor, edits: Edits) -> Tensor:
        for name, edit in edits:
            new = edit(x) if name == hook else None
            x = x if new is None else new
        return x


@dataclass
class Sae:
    """A sparse autoencoder of random weights, in float64."""

    seed: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.encoder = random(WIDTH, LATENTS, seed=10 + self.seed)
        self.decoder = self.scale * random(LATENTS, WIDTH, seed=20 + self.seed)
        self.bias = random(WIDTH, seed=30 + self.seed)

    def encode(self, x: Tensor) -> Tensor:
        return ((x - self.bias) @ self.encoder).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.decoder + self.bias


RANDOM = ("gaussian", "noise")
SITES = (FeatureSite("a", "a", Sae(0)), FeatureSite("b", "b", Sae(1)))


def prompts(count: int = 5, seed: int = 0, **changed: Any) -> Prompts:
    return make_prompts(count, positions=POSITIONS, vocabulary=VOCABULARY, seed=seed, **changed)


def random_circuit(seed: int = 0, sites: Sequence[FeatureSite] = SITES) -> FeatureCircuit:
    generator = torch.Generator().manual_seed(seed)
    return FeatureCircuit(
        {site.name: torch.rand(POSITIONS, LATENTS, generator=generator) < 0.5 for site in sites},
        {site.name: torch.rand(POSITIONS, generator=generator) < 0.5 for site in sites},
    )


def clean_nodes(model: Chain, tokens: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Latents and errors of clean passes, without the code under test."""
    x = model.embed[torch.from_numpy(tokens)]
    found = {}
    for site, value in zip(SITES, (x, model.middle(x)), strict=True):
        sae = site.interpretation
        codes = sae.encode(value)
        found[site.name] = (codes.numpy(), (value - codes @ sae.decoder - sae.bias).numpy())
    return found


def by_hand(
    model: Chain,
    evaluation: Prompts,
    calibration: Prompts,
    circuit: FeatureCircuit,
    background: str,
    errors: str,
) -> np.ndarray:
    """Logits at the last position, one node after another."""
    banks = {
        "mean": clean_nodes(model, calibration.tokens),
        "mean-counterfactual": clean_nodes(model, calibration.counterfactual),
        "counterfactual": clean_nodes(model, evaluation.counterfactual),
    }

    places = NoiseKeys(0, evaluation.documents, (0,) * len(evaluation))
    others = indices(places, 0, 1, len(calibration), "resample")[:, 0].tolist()

    def removed(how: str, site: str, kind: int, row: int, position: int) -> np.ndarray:
        if how == "permuted":  # one other prompt for all nodes
            return banks["mean"][site][kind][others[row], position]
        if how == "zero":
            return np.zeros_like(banks["mean"][site][kind][0, 0])
        bank = banks[how][site][kind]
        return bank[row, position] if how == "counterfactual" else bank[:, position].mean(0)

    logits = []
    for row, tokens in enumerate(evaluation.tokens):
        x = model.embed[torch.from_numpy(tokens)]
        for site in SITES:
            sae: Any = site.interpretation
            if site.name == "b":
                x = model.middle(x)
            new = torch.zeros_like(x)
            for position in range(POSITIONS):
                codes = sae.encode(x[position])
                error = x[position] - codes @ sae.decoder - sae.bias
                new[position] = sae.bias
                for latent in range(LATENTS):
                    value = float(codes[latent])
                    if not circuit.latents[site.name][position, latent]:
                        value = float(removed(background, site.name, 0, row, position)[latent])
                    new[position] += value * sae.decoder[latent]
                keeps = bool(circuit.errors[site.name][position]) if errors == "nodes" else errors == "kept"
                instead = "mean" if errors == "mean" else background
                new[position] += (
                    error if keeps else torch.from_numpy(removed(instead, site.name, 1, row, position))
                )
            x = new
        logits.append((x[-1] @ model.unembed).numpy())
    return np.array(logits)


@pytest.mark.parametrize("errors", [name for name in ERRORS if name != "gaussian"])
@pytest.mark.parametrize("background", [name for name in BACKGROUNDS if name not in RANDOM])
def test_a_pass_equals_one_written_out_node_by_node(background: str, errors: str) -> None:
    model, calibration, evaluation, circuit = Chain(), prompts(6, seed=1), prompts(5), random_circuit()
    scene = FeatureScene(model, SITES, calibration, evaluation, seed=0, rows=2)
    found = scene.run(circuit, background, errors)[:, 0].numpy()
    np.testing.assert_allclose(
        found, by_hand(model, evaluation, calibration, circuit, background, errors), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_whole_circuit_is_the_model(background: str) -> None:
    scene = FeatureScene(Chain(), SITES, prompts(6, seed=1), prompts(5), seed=0)
    whole = random_circuit().empty.complement
    assert torch.allclose(scene.run(whole, background), scene.clean(), rtol=0, atol=1e-12)


def test_the_empty_circuit_is_the_counterfactual() -> None:
    model, evaluation = Chain(), prompts(5)
    found = FeatureScene(model, SITES, prompts(6, seed=1), evaluation, seed=0).run(
        random_circuit().empty, "counterfactual"
    )
    expected = model.run(torch.from_numpy(evaluation.counterfactual), [], [POSITIONS - 1])
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_the_gaussian_has_mean_and_covariance_of_what_is_removed() -> None:
    # One site, the last position, and a readout that is linear: what varies between documents is the noise.
    model, calibration, count = Chain(), prompts(12, seed=1), 6000
    same = np.repeat(prompts(1).tokens, count, 0)
    evaluation = prompts(
        count,
        tokens=same,
        counterfactual=same,
        correct=np.zeros((count, 1, 1), dtype=np.int64),
        wrong=np.ones((count, 1, 1), dtype=np.int64),
    )
    site, circuit = SITES[1], random_circuit(3, SITES[1:])
    circuit.errors["b"][:] = False
    scene = FeatureScene(model, [site], calibration, evaluation, seed=4, rows=count)
    found, mirrored = (scene.run(circuit, "gaussian", draw=draw)[:, 0].numpy() for draw in (0, 1))
    codes, error = clean_nodes(model, calibration.tokens)["b"]
    sae: Any = site.interpretation
    removed = np.where(circuit.latents["b"][-1], 0.0, codes[:, -1]) @ sae.decoder.numpy() + error[:, -1]
    expected = np.cov((removed @ model.unembed.numpy()).T)
    error_of = np.linalg.norm(np.cov(found.T) - expected) / np.linalg.norm(expected)
    assert error_of < 0.06  # √(2 · rank / documents) is 0.04
    mean = scene.run(circuit, "mean")[:, 0].numpy()
    np.testing.assert_allclose((found + mirrored) / 2, mean, rtol=0, atol=1e-10)


def test_noise_is_added_to_the_clean_values_and_is_that_of_the_gaussian() -> None:
    # One site, a readout that is linear: what is removed is clean, and moves by the Gaussian less its mean.
    circuit = random_circuit(3, SITES[1:])
    scene = FeatureScene(Chain(), SITES[1:], prompts(12, seed=1), prompts(5), seed=4, rows=2)
    for draw in (0, 1):
        noise = scene.run(circuit, "gaussian", draw=draw) - scene.run(circuit, "mean")
        assert float(noise.abs().max()) > 0.01
        found = scene.run(circuit, "noise", draw=draw) - scene.clean()
        assert torch.allclose(found, noise, rtol=0, atol=1e-12)


def test_with_gaussian_errors_only_errors_vary() -> None:
    scene = FeatureScene(Chain(), SITES[1:], prompts(12, seed=1), prompts(5), seed=4)
    circuit = random_circuit(3, SITES[1:])
    circuit.errors["b"][:] = False
    noisy, still = scene.run(circuit, "mean", "gaussian"), scene.run(circuit, "mean", "mean")
    mirrored = scene.run(circuit, "mean", "gaussian", 1)
    assert float((noisy - still).abs().max()) > 0.01
    assert torch.allclose((noisy + mirrored) / 2, still, rtol=0, atol=1e-12)


def test_a_transcoder_reads_one_hook_and_rebuilds_another() -> None:
    class Skipping(Sae):
        def skip(self, x: Tensor) -> Tensor:
            return 0.5 * x

    model, evaluation = Chain(), prompts(5)
    site = FeatureSite("a", "b", Skipping(2))
    scene = FeatureScene(model, [site], prompts(6, seed=1), evaluation, seed=0)
    whole = random_circuit(0, [site]).empty.complement
    assert torch.allclose(scene.run(whole), scene.clean(), rtol=0, atol=1e-12)
    # Without errors, and with nothing in their place, it is what the transcoder says.
    whole.errors["b"][:] = False
    x = model.embed[torch.from_numpy(evaluation.tokens)]
    sae: Any = site.interpretation
    expected = (sae.decode(sae.encode(x)) + 0.5 * x)[:, -1] @ model.unembed
    assert torch.allclose(scene.run(whole, "zero")[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_scores_are_what_patching_costs_where_the_model_is_linear(ablation: str) -> None:
    model, given = Chain(linear=True), prompts(3)
    scores = score_nodes(model, SITES, given, ablation=ablation, steps=3, rows=2)
    tokens = torch.from_numpy(given.tokens)
    clean, other = clean_nodes(model, given.tokens), clean_nodes(model, given.counterfactual)
    if ablation != "counterfactual":
        scale = 1 / len(given) if ablation == "mean" else 0
        other = {
            site: (np.zeros_like(codes) + codes.sum(0) * scale, np.zeros_like(error) + error.sum(0) * scale)
            for site, (codes, error) in clean.items()
        }
    rows = torch.arange(len(given))
    right, wrong = (torch.from_numpy(part[:, 0, 0]) for part in (given.correct, given.wrong))

    def lead(logits: Tensor) -> float:
        return float((logits[rows, -1, right] - logits[rows, -1, wrong]).mean())

    full = lead(model.run(tokens, []))
    x = model.embed[tokens]
    for site, value in zip(SITES, (x, model.middle(x)), strict=True):
        sae: Any = site.interpretation
        for position in range(POSITIONS):
            for node in range(LATENTS + 1):
                kind, column = (0, node) if node < LATENTS else (1, slice(None))
                change = torch.zeros_like(value)
                delta = (
                    other[site.name][kind][:, position, column] - clean[site.name][kind][:, position, column]
                )
                moved = torch.from_numpy(np.asarray(delta))
                change[:, position] = moved[:, None] * sae.decoder[node] if kind == 0 else moved
                patched = value + change
                stream = model.middle(patched) if site.name == "a" else patched
                less = lead(stream @ model.unembed)
                assert float(scores[site.name][position, node]) == pytest.approx(full - less, abs=1e-10)


def test_scores_follow_the_gradient_along_the_way() -> None:
    model, given, steps = Chain(), prompts(2), 4
    scores = score_nodes(model, SITES, given, steps=steps)
    clean, other = clean_nodes(model, given.tokens)["a"], clean_nodes(model, given.counterfactual)["a"]
    sae: Any = SITES[0].interpretation

    def total(latents: np.ndarray, error: np.ndarray) -> float:
        x = torch.from_numpy(latents) @ sae.decoder + sae.bias + torch.from_numpy(error)
        logits = model.middle(x) @ model.unembed
        return float(answer(logits, logits, given).mean())

    for position, latent in ((1, 0), (1, 3), (2, 5)):
        expected = 0.0
        for k in range(steps):
            latents, error = (a + k / steps * (b - a) for a, b in zip(clean, other, strict=True))
            direction = np.zeros_like(latents)
            direction[:, position, latent] = (clean[0] - other[0])[:, position, latent]
            up, down = (total(latents + s * 1e-5 * direction, error) for s in (1, -1))
            expected += (up - down) / 2e-5 / steps
        assert float(scores["a"][position, latent]) == pytest.approx(expected, abs=1e-8)


def test_thresholds_are_fifteen_decades_quartered() -> None:
    assert len(THRESHOLDS) == 15
    assert THRESHOLDS[0] == pytest.approx(1e-4)
    assert THRESHOLDS[-1] == pytest.approx(1.0)
    assert THRESHOLDS[1] / THRESHOLDS[0] == pytest.approx(10 ** (4 / 14))
    circuit = at_threshold({"a": torch.tensor([[0.3, -0.5, 0.1], [0.0, 0.2, -0.9]])}, 0.25)
    assert circuit.latents["a"].tolist() == [[True, True], [False, False]]
    assert circuit.errors["a"].tolist() == [False, True]
    assert (circuit.nodes, circuit.of) == (3, 6)
    assert circuit.bits == pytest.approx(np.log2(20))


@dataclass
class GivenTask(PromptTask):
    """A task of given prompts on a given model."""

    groups: dict[str, tuple[Prompts, ...]]
    given: SiteModel
    facts = BehaviourFacts((TemplateFacts("t", 2, 1, 1.0, 1.0, -1.0, True),), {}, 0)
    model = Pinned(source="tests", sha256="0" * 64)
    data = model

    def prompts(self, split: Split) -> tuple[Prompts, ...]:
        return self.groups[split]

    def site_model(self, dtype: str = "float32") -> SiteModel:
        return self.given

    def _make_circuit_model(self, dtype: str) -> CircuitModel:
        raise NotImplementedError


def measured(
    model: SiteModel,
    sites: Sequence[FeatureSite],
    calibration: Prompts,
    evaluation: Prompts,
    circuit: dict[str, FeatureCircuit],
    rungs: tuple[str, ...],
) -> StoredRecord:
    """One circuit on one template, to the record."""
    task = tiny.make_task(
        corpus=None, splits=None, positions=None, circuit=CircuitSpec(behaviour="numbers"), rungs=("raw",)
    )
    groups = {"calibration": (calibration,), "evaluation": (evaluation,)}
    loaded = GivenTask(task, torch.device("cpu"), 4, None, groups, model)
    subject = SubmissionInfo(
        name="given",
        kind="feature-circuit",
        files={},
        hash="0" * 64,
        method=MethodInfo(format=None),
    )
    circuits = FeatureCircuits(tuple(sites), {"given": circuit})
    asked = plan(task, "quick", rungs=rungs)
    return FeatureRun(loaded, subject, asked, Log(), None, circuits).record()


class Plain:
    """The stream of token t is (4t, −t), and the logits are the stream."""

    def run(self, inputs: Tensor, edits: Edits, positions: Sequence[int] | None = None) -> Tensor:
        x = torch.stack([4.0 * inputs, -1.0 * inputs], -1)
        for _, edit in edits:
            new = edit(x)
            x = x if new is None else new
        return x if positions is None else x[:, list(positions)]

    def activation(self, inputs: Tensor, edits: Edits, hook: str) -> Tensor:
        return self.run(inputs, [])


def test_a_case_by_hand() -> None:
    # The answer is x₀ − x₁ = 5t. With x₀ alone it is 4t, with x₁ alone t, with neither 0.
    count = 6
    tokens = np.arange(1, 1 + 2 * count).reshape(count, 2)
    given = Prompts(
        "numbers",
        tokens,
        tokens,
        tuple(f"d{i}" for i in range(count)),
        np.array([[False, True]] * count),
        np.zeros((count, 1, 1), dtype=np.int64),
        np.ones((count, 1, 1), dtype=np.int64),
    )
    flags = torch.tensor([[True, False]] * 2)
    circuit = FeatureCircuit({"x": flags}, {"x": torch.zeros(2, dtype=torch.bool)})
    record, values = measured(
        Plain(), [FeatureSite("x", "x", Identity())], given, given, {given.template: circuit}, ("raw", "zero")
    )
    points = record.metrics.circuit.points
    assert record.metrics.circuit.answer.value == pytest.approx(5 * 7)  # the mean of 2, 4, … 12
    assert points["0"].rungs["zero"].answer.value == 0
    assert points["headline"].rungs["zero"].answer.value == pytest.approx(4 * 7)
    assert points["headline"].rungs["zero"].faithfulness.value == pytest.approx(0.8)
    assert points["headline"].rungs["zero"].completeness.value == pytest.approx(0.2)
    size = record.complexity.circuits["headline"]
    assert (size.nodes, record.complexity.features) == (2, 6)
    assert size.bits == pytest.approx(np.log2(15))
    last = values[(values.rung == "zero") & (values.document == given.documents[0])].iloc[0]
    p = 1 / (1 + np.exp(-10.0))  # the model's, of token 2; the circuit's is that of a lead of 8
    q = 1 / (1 + np.exp(-8.0))
    assert last.loss == pytest.approx(-np.log(q), rel=1e-3)
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert last.kl == pytest.approx(kl, rel=0.02)


def test_evaluation_agrees_with_passes_by_hand() -> None:
    model, calibration, evaluation, circuit = Chain(), prompts(6, seed=1), prompts(8), random_circuit()
    _, values = measured(
        model, SITES, calibration, evaluation, {evaluation.template: circuit}, ("raw", "full")
    )

    def mean(which: FeatureCircuit, errors: str) -> float:
        logits = by_hand(model, evaluation, calibration, which, "mean", errors)
        rows = np.arange(len(logits))
        lead = logits[rows, evaluation.correct[:, 0, 0]] - logits[rows, evaluation.wrong[:, 0, 0]]
        return float(lead.mean())

    def recorded(rung: str) -> float:
        return float(values[values.rung == rung].answer.mean())

    for rung, errors in (("raw", "nodes"), ("errors-kept", "kept")):
        assert recorded(rung) == pytest.approx(mean(circuit, errors), rel=1e-5)
        assert recorded(rung_at(rung, "0")) == pytest.approx(mean(circuit.empty, errors), rel=1e-5)
    rest = recorded(rung_at("raw", "~headline"))
    assert rest == pytest.approx(mean(circuit.complement, "nodes"), rel=1e-5)
    assert sorted(values[values.rung == "full"].draw.unique()) == [0, 1]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_real_architecture_behind_the_bridge(architecture: str) -> None:
    model = BridgeSiteModel(circuit_models.bridge_model(architecture).bridge)
    width = 16

    class Half:
        def encode(self, x: Tensor) -> Tensor:
            return x.relu()

        def decode(self, codes: Tensor) -> Tensor:
            return 0.5 * codes

    names = ("blocks.1.hook_out", "blocks.2.hook_mlp_out")
    sites = [FeatureSite(name, name, adapt(Half(), width)) for name in names]
    calibration, evaluation = (
        make_prompts(4, positions=7, vocabulary=90, seed=seed, template="t") for seed in (1, 2)
    )
    scene = FeatureScene(model, sites, calibration, evaluation, seed=0)
    ones = FeatureCircuit(
        {name: torch.ones(7, width, dtype=torch.bool) for name in names},
        {name: torch.ones(7, dtype=torch.bool) for name in names},
    )
    with torch.no_grad():
        clean = model.bridge(torch.from_numpy(evaluation.tokens))[:, -1]
        other = model.bridge(torch.from_numpy(evaluation.counterfactual))[:, -1]
        assert torch.allclose(scene.run(ones)[:, 0], clean, rtol=0, atol=1e-4)
        # All that reaches the logits passes the first site; the second is the counterfactual's as it is.
        assert torch.allclose(scene.run(ones.empty, "counterfactual")[:, 0], other, rtol=0, atol=1e-4)
        x = model.activation(torch.from_numpy(evaluation.tokens), [], names[0])
    assert scene.features == {name: width for name in names}
    assert x.shape == (4, 7, width)
    # With one step the score is the gradient at the clean values: to first order, of a small change.
    scores = score_nodes(model, sites[:1], evaluation, steps=1)[names[0]]
    tokens = torch.from_numpy(evaluation.tokens)
    leaf = x.clone().requires_grad_()
    logits = model.run(tokens, [(names[0], lambda value: leaf)])
    (gradient,) = torch.autograd.grad(answer(logits, logits.detach(), evaluation).mean(), leaf)
    with torch.no_grad():
        gone = model.activation(torch.from_numpy(evaluation.counterfactual), [], names[0])
    expected = ((x - gone) * gradient).sum((0, 2))
    # All nodes of a position together move the activation by x − x'.
    assert torch.allclose(scores.sum(1).float(), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(TaskError, match=r"no hook 'blocks.1.hook_ou'.*"):
        model.run(tokens, [("blocks.1.hook_ou", lambda value: None)])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt-neox"])
def test_passes_start_at_the_block_of_the_first_edit(architecture: str) -> None:
    model = BridgeSiteModel(circuit_models.bridge_model(architecture).bridge)
    tokens = torch.from_numpy(make_prompts(4, positions=7, vocabulary=90, seed=3).tokens)
    hooks = ("blocks.2.hook_mlp_out", "blocks.1.hook_out")
    entry = model.entry(tokens, hooks)
    assert entry is not None
    assert entry.block == 1

    def half(value: Tensor) -> Tensor:
        return value / 2

    called: list[int] = []
    points = [model.bridge.hook_dict[f"blocks.{block}.hook_out"] for block in (0, 1)]
    for block, point in enumerate(points):
        point.add_hook(lambda value, hook, block=block: called.append(block))
    with torch.no_grad():
        whole = model.run(tokens, [(hook, half) for hook in hooks], [2, 6])
        assert called == [0, 1]
        started = run_from(model, entry, tokens, [(hook, half) for hook in hooks], [2, 6])
        assert called == [0, 1, 1]
        some = run_from(model, entry.rows(slice(1, 3)), tokens[1:3], [(hooks[1], half)])
        again = model.run(tokens[1:3], [(hooks[1], half)])
    for point in points:
        point.remove_hooks()
    torch.testing.assert_close(started, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(some, again, atol=1e-5, rtol=0)
    assert model.entry(tokens, ("blocks.0.hook_out", *hooks)) is None
    assert model.entry(tokens, ("embed.hook_out",)) is None


def test_passes_are_whole_where_starting_at_a_block_gives_other_logits() -> None:
    model = BridgeSiteModel(circuit_models.bridge_model("llama").bridge)
    tokens = torch.from_numpy(make_prompts(2, positions=7, vocabulary=90).tokens)
    first, second = (model.bridge.hook_dict[f"blocks.{block}.hook_out"] for block in (0, 1))
    beside: list[int] = []  # what one block leaves to another besides the stream
    first.add_hook(lambda value, hook: beside.__setitem__(slice(None), [1]))
    second.add_hook(lambda value, hook: value + torch.arange(16) if beside and beside.pop() else None)
    assert model.entry(tokens, ("blocks.1.hook_out",)) is None
    for point in (first, second):
        point.remove_hooks()
    assert model.entry(tokens, ("blocks.1.hook_out",)) is None  # it stays so for this model
    again = BridgeSiteModel(model.bridge)
    assert again.entry(tokens, ("blocks.1.hook_out",)) is not None


def graph(tokens: int = POSITIONS) -> FeatureGraph:
    nodes = [
        FeatureNode("0_2_1", "feature", 0, 2, 1, 1.0, 0.3, 0.0),
        FeatureNode("0_5_1", "feature", 0, 5, 1, 1.0, 0.4, 0.0),
        FeatureNode("1_0_3", "feature", 1, 0, 3, 1.0, 0.5, 0.0),
        FeatureNode("1_-1_2", "error", 1, -1, 2, None, 0.6, 0.0),
        FeatureNode("3_4_3", "logit", 2, 4, 3, None, None, 1.0),
    ]
    return FeatureGraph(
        "m",
        "words",
        tuple(map(str, range(tokens))),
        tuple(nodes),
        np.array([0, 1, 2, 3]),
        np.array([2, 2, 4, 4]),
        np.ones(4),
        ("0_5_1", "1_0_3"),
    )


def test_an_attribution_graph_is_a_circuit() -> None:
    sites = [FeatureSite(f"blocks.{i}.hook_in", f"blocks.{i}.hook_out", Sae(i)) for i in (0, 1)]
    features = {site.name: LATENTS for site in sites}
    circuit = circuit_of_graph(graph(), sites, features, POSITIONS)
    assert circuit.latents["blocks.0.hook_out"].nonzero().tolist() == [[1, 2], [1, 5]]
    assert circuit.latents["blocks.1.hook_out"].nonzero().tolist() == [[3, 0]]
    assert circuit.errors["blocks.1.hook_out"].tolist() == [False, False, True, False]
    assert circuit.nodes == 4
    pinned = circuit_of_graph(graph().pinned(), sites, features, POSITIONS)
    assert pinned.nodes == 2
    with pytest.raises(InterpretationError, match="prompt of 5 tokens, the template has 4"):
        circuit_of_graph(graph(5), sites, features, POSITIONS)
    with pytest.raises(InterpretationError, match="nodes in block 1; there are interpretations of 0"):
        circuit_of_graph(graph(), sites[:1], {sites[0].name: LATENTS}, POSITIONS)
    with pytest.raises(InterpretationError, match="feature 5 of block 0; its transcoder has 4"):
        circuit_of_graph(graph(), sites, dict.fromkeys(features, 4), POSITIONS)


def test_scores_are_written_and_read(tmp_path: Path) -> None:
    path, features, positions = tmp_path / "scores.safetensors", {"a": 2, "b": 3}, {"one": 4, "x/two": 5}
    given = {
        template: {site: random(length, width + 1, seed=length) for site, width in features.items()}
        for template, length in positions.items()
    }
    save_scores(path, given)
    found = load_scores(path, features, positions)
    for template, sites in given.items():
        for site, scores in sites.items():
            assert torch.allclose(found[template][site], scores, atol=1e-6)
    with pytest.raises(
        InterpretationError, match=r"one/a has shape \(4, 3\).*expected finite floats \(4, 2\)"
    ):
        load_scores(path, {"a": 1, "b": 3}, positions)
    with pytest.raises(InterpretationError, match="has one/b, which is no template and site"):
        load_scores(path, {"a": 2}, positions)
    with pytest.raises(InterpretationError, match="lacks three/a"):
        load_scores(path, features, positions | {"three": 1})
    given["one"]["a"][0, 0] = torch.nan
    save_scores(path, given)
    with pytest.raises(InterpretationError, match="values that are not finite"):
        load_scores(path, features, positions)
    path.write_bytes(b"not this")
    with pytest.raises(InterpretationError, match="no whole safetensors file"):
        load_scores(path, features, positions)


def test_what_does_not_fit_is_refused() -> None:
    model, calibration, evaluation = Chain(), prompts(6, seed=1), prompts(5)
    scene = FeatureScene(model, SITES, calibration, evaluation, seed=0)
    with pytest.raises(TaskError, match="scored against 'median'"):
        score_nodes(model, SITES, evaluation, ablation="median")
    with pytest.raises(TaskError, match="no background 'median'"):
        scene.run(random_circuit(), "median")
    with pytest.raises(InterpretationError, match="the circuit has latents"):
        scene.run(random_circuit(0, SITES[:1]))
    with pytest.raises(TaskError, match="sites are a, a"):
        FeatureScene(model, [SITES[0], SITES[0]], calibration, evaluation, seed=0)
    with pytest.raises(TaskError, match="calibration prompts of 5 tokens"):
        FeatureScene(model, SITES, make_prompts(3, positions=5, vocabulary=7), evaluation, seed=0)
    with pytest.raises(MeasurementError, match="1 calibration prompts"):
        FeatureScene(model, SITES, prompts(1, seed=1), evaluation, seed=0).run(random_circuit(), "gaussian")
    with pytest.raises(InterpretationError, match="circuit given has none for template random"):
        measured(model, SITES, calibration, evaluation, {"elsewhere": random_circuit()}, ("raw",))
    backwards = FeatureSite("b", "a", Sae(0))
    with pytest.raises(TaskError, match="a comes before b"):
        FeatureScene(model, [backwards], calibration, evaluation, seed=0).run(random_circuit(0, SITES[:1]))
