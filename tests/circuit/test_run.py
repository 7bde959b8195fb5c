"""A pass of a circuit against a model written out edge by edge, and backgrounds against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from circuit_models import HEADS, VOCABULARY, PlainModel, bridge_model, make_prompts
from torch import Tensor

from remainder.circuit import backgrounds, kept_sums
from remainder.circuit.backgrounds import (
    BACKGROUNDS,
    Background,
    Scene,
    _missing_factor,
    _surrogate,
    mean_values,
)
from remainder.circuit.circuit import Circuit
from remainder.circuit.constants import fit_constants
from remainder.circuit.run import Values, record, rows_within, run_circuit
from remainder.errors import MeasurementError
from remainder.model.architecture import Stage
from remainder.record.rungs import CIRCUIT_RUNGS

MODELS = {
    "plain": PlainModel(),
    "grouped": PlainModel(groups=1, seed=1),
    "parallel": PlainModel(parallel=True, seed=2),
    "attention-only": PlainModel(layers=3, mlps=False, seed=3),
}


class PassValues:
    """A background of given values that does not say that they do not depend on the pass."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def values(self, stage: Stage, now: Tensor) -> Tensor:
        return self._values[stage.name].to(now.dtype)


def random_circuit(model: PlainModel, share: float, seed: int = 0) -> Circuit:
    exists = model.graph.exists
    return Circuit(model.graph, exists & (np.random.default_rng(seed).random(exists.shape) < share))


def by_hand(model: PlainModel, circuit: Circuit, tokens: Tensor, background: dict[str, Tensor]) -> Tensor:
    """The definition: every reader's input is summed edge by edge, in the model's own matrices.

    `background` is what each writer adds to the stream, by name [rows, positions, d].
    """
    w, names = model.weights, model.graph.writer_index
    now: dict[str, Tensor] = {"input": model.embed(tokens)}
    bias = torch.zeros_like(now["input"])

    def read(reader: str, seen: list[str]) -> Tensor:
        column = model.graph.reader_index[reader]
        kept = [circuit.kept[names[name], column] for name in seen]
        return bias + sum(
            now[name] if keep else background[name] for name, keep in zip(seen, kept, strict=True)
        )

    def attend(layer: int, head: int, seen: list[str]) -> Tensor:
        group = head // (HEADS // model.groups)
        parts = []
        for kind, place in (("q", head), ("k", group), ("v", group)):
            x = model.norm(read(f"a{layer}.h{place}<{kind}>", seen), f"{layer}.gain.a")
            parts.append(x @ w[f"{layer}.{kind}"][place] + w[f"{layer}.{kind}.bias"][place])
        q, k, v = parts
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1) @ v @ w[f"{layer}.o"][head]

    for layer in range(model.layers):
        seen = list(now)
        heads = {f"a{layer}.h{head}": attend(layer, head, seen) for head in range(HEADS)}
        if not model.parallel:
            now |= heads
            bias = bias + w[f"{layer}.o.bias"]
        if model.mlps:
            x = model.norm(read(f"m{layer}", list(now)), f"{layer}.gain.m")
            hidden = model.bend(x @ w[f"{layer}.in"] + w[f"{layer}.in.bias"])
            mlp = {f"m{layer}": hidden @ w[f"{layer}.out"] + w[f"{layer}.out.bias"]}
        if model.parallel:
            now |= heads
            bias = bias + w[f"{layer}.o.bias"]
        if model.mlps:
            now |= mlp
    return model.norm(read("logits", list(now)), "gain") @ w["unembed"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_a_pass_is_the_sum_over_edges(name: str, share: float) -> None:
    model, prompts = MODELS[name], make_prompts(5)
    circuit = random_circuit(model, share)
    tokens, other = torch.from_numpy(prompts.tokens), torch.from_numpy(prompts.counterfactual)
    values, _ = record(model, other)
    background = {
        writer: model.outputs(stage, values[stage.name])[:, :, place]
        for stage in model.graph.stages[:-1]
        for place, writer in enumerate(model.graph.writers[stage.writers])
    }
    found = run_circuit(model, circuit, tokens, values)
    torch.testing.assert_close(found, by_hand(model, circuit, tokens, background), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ahead", [1, 5, 9])
def test_a_pass_is_the_sum_over_edges_however_many_readers_are_summed_at_once(
    name: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_sums, "_AHEAD", ahead)
    assert kept_sums.readers_ahead(MODELS[name].graph) < len(MODELS[name].graph.readers)
    for share in (0.1, 0.5, 0.9):
        test_a_pass_is_the_sum_over_edges(name, share)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(5))
def test_edges_that_do_not_reach_the_logits_change_nothing(name: str, seed: int) -> None:
    model, prompts = MODELS[name], make_prompts(5)
    tokens = torch.from_numpy(prompts.tokens)
    values, _ = record(model, torch.from_numpy(prompts.counterfactual))
    circuit = random_circuit(model, 0.1, seed)
    reaching = circuit.reaching
    assert not (reaching & ~circuit.kept).any()
    assert (circuit.pruned().kept & ~reaching).sum() == 0
    plain = PassValues(values)  # nothing is left out where a background may depend on the pass
    whole = run_circuit(model, circuit, tokens, plain)
    cut = run_circuit(model, Circuit(model.graph, reaching), tokens, plain)
    torch.testing.assert_close(cut, whole, atol=1e-10, rtol=0)
    torch.testing.assert_close(run_circuit(model, circuit, tokens, values), whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_full_circuit_is_the_model_and_empty_one_the_background(name: str) -> None:
    model, prompts = MODELS[name], make_prompts(5)
    tokens, other = torch.from_numpy(prompts.tokens), torch.from_numpy(prompts.counterfactual)
    values, logits = record(model, other)
    clean = run_circuit(model, Circuit.full(model.graph), tokens, values)
    torch.testing.assert_close(clean, model.run(tokens), atol=1e-12, rtol=0)
    empty = run_circuit(model, Circuit.empty(model.graph), tokens, values)
    torch.testing.assert_close(empty, logits, atol=1e-12, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gpt-neox"])
def test_bridge_models_split_into_edges(architecture: str) -> None:
    model = bridge_model(architecture)
    prompts = make_prompts(4, positions=7, vocabulary=50)
    tokens, other = torch.from_numpy(prompts.tokens), torch.from_numpy(prompts.counterfactual)
    with torch.no_grad():
        values, logits = record(model, other)
        torch.testing.assert_close(
            run_circuit(model, Circuit.full(model.graph), tokens, values),
            model.run(tokens),
            atol=1e-4,
            rtol=0,
        )
        torch.testing.assert_close(
            run_circuit(model, Circuit.empty(model.graph), tokens, values), logits, atol=1e-4, rtol=0
        )
        last = run_circuit(model, Circuit.full(model.graph), tokens, values, positions=[6])
        torch.testing.assert_close(last[:, 0], model.run(tokens)[:, -1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gpt-neox"])
def test_stages_that_change_nothing_are_not_computed(architecture: str) -> None:
    model = bridge_model(architecture)
    assert model.skips
    prompts = make_prompts(4, positions=7, vocabulary=50)
    tokens = torch.from_numpy(prompts.tokens)
    computed: list[str] = []
    for stage in model.graph.stages[1:-1]:
        part = getattr(model.bridge.blocks[int(stage.name[1:])], "attn" if stage.name[0] == "a" else "mlp")
        part.hook_out.add_hook(lambda value, hook, name=stage.name: computed.append(name))
    with torch.no_grad():
        values, _ = record(model, torch.from_numpy(prompts.counterfactual))
        few = {stage: value.mean((0, 1), keepdim=True) for stage, value in values.items()}
        for only in ("m0->logits", "a0.h0->logits", "input->logits", "a1.h1->logits"):
            circuit = Circuit.of_edges(model.graph, [only, "input->m1", "input->a1.h0<q>"])
            for background in (values, few):
                computed.clear()
                found = run_circuit(model, circuit, tokens, background)
                writer = only.partition(".")[0].partition("-")[0]
                assert set(computed) == {writer} - {"input"}
                whole = run_circuit(model, circuit, tokens, PassValues(background))
                torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)
    for block in model.bridge.blocks:
        block.attn.hook_out.remove_hooks()
        block.mlp.hook_out.remove_hooks()


@pytest.mark.parametrize("rung", [rung for rung in BACKGROUNDS if rung != "optimal-constant"])
def test_the_whole_graph_is_run_once_since_it_sees_no_background(
    rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scene(MODELS["plain"])
    passes: list[int] = []
    monkeypatch.setattr(backgrounds, "run_circuit", lambda *a, **k: passes.append(1) or run_circuit(*a, **k))
    whole = Circuit.full(MODELS["plain"].graph)
    first = made.run(whole, BACKGROUNDS[rung], 1)
    assert len(passes) == 1
    assert made.run(whole, BACKGROUNDS["zero"]) is first
    torch.testing.assert_close(first, made.clean_logits, atol=1e-10, rtol=0)
    assert len(passes) == 1


def scene(model: PlainModel, *, budget: int = 2**28, order: slice = slice(None)) -> Scene:
    evaluation = make_prompts(9, seed=1, template="evaluation").take(order)
    return Scene(model, make_prompts(6, seed=2, template="calibration"), evaluation, 7, budget=budget)


@pytest.mark.parametrize("rung", [rung for rung in BACKGROUNDS if rung != "optimal-constant"])
def test_portions_and_order_change_nothing(rung: str) -> None:
    model = MODELS["grouped"]
    circuit = random_circuit(model, 0.5)
    wide, reverse = scene(model), scene(model, order=slice(None, None, -1))
    narrow = scene(model, budget=1)
    assert rows_within(circuit, 5, budget=1) == 1
    one = wide.run(circuit, BACKGROUNDS[rung], 1)
    torch.testing.assert_close(narrow.run(circuit, BACKGROUNDS[rung], 1), one, atol=1e-9, rtol=0)
    torch.testing.assert_close(reverse.run(circuit, BACKGROUNDS[rung], 1).flip(0), one, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "rung", [name for name, one in BACKGROUNDS.items() if one.kind in ("full", "noise-fitted")]
)
def test_pairs_of_draws_are_mirrored(rung: str) -> None:
    """On a linear model the mean over an antithetic pair is the pass with the mean."""
    model = PlainModel(linear=True, seed=4)
    circuit = random_circuit(model, 0.5)
    found = scene(model)
    pair = [found.run(circuit, BACKGROUNDS[rung], draw) for draw in (2, 3)]
    assert float((pair[0] - pair[1]).abs().max()) > 1e-3
    if BACKGROUNDS[rung].kind == "full" and BACKGROUNDS[rung].statistics == "single-shot":
        mean = found.run(circuit, BACKGROUNDS["raw"])
        torch.testing.assert_close((pair[0] + pair[1]) / 2, mean, atol=1e-5, rtol=0)


def test_surrogate_has_the_sample_covariance_over_everything_jointly() -> None:
    bank = torch.randn(7, 3, 2, 4, dtype=torch.float64)
    # Unit weights span the sampler: the sum of outer products is its covariance, exactly.
    factors = _surrogate(bank, torch.eye(7)).reshape(7, -1)
    expected = np.cov(bank.reshape(7, -1).numpy(), rowvar=False)
    np.testing.assert_allclose((factors.T @ factors).numpy(), expected, atol=1e-7)


def test_missing_factor_is_the_positive_part() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted, have = (torch.randn(9, 2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    wanted, have = wanted - wanted.mean(0), have - have.mean(0)
    factor = _missing_factor(wanted, have)
    for place in range(2):
        difference = np.cov(wanted[:, place].T.numpy()) - np.cov(have[:, place].T.numpy())
        values, vectors = np.linalg.eigh(difference)
        positive = (vectors * np.maximum(values, 0)) @ vectors.T
        assert values.min() < -0.1  # so that something is projected
        np.testing.assert_allclose((factor[place] @ factor[place].T).numpy(), positive, atol=1e-10)


def test_sequential_statistics_are_those_of_the_same_pass() -> None:
    """Values of the calibration prompts in a pass of their own, made into a background by hand."""
    model = MODELS["plain"]
    circuit = random_circuit(model, 0.5)
    found = scene(model)
    calibration = Scene(model, found.calibration, found.calibration, found.seed)
    seen: dict[str, Tensor] = {}
    bath = calibration._bath(BACKGROUNDS["full-sequential"], _draw(1), slice(0, 6), None)
    values = bath.values  # type: ignore[union-attr]

    def noting(stage: object, now: Tensor) -> Tensor:
        seen[stage.name] = now[:6].clone()  # type: ignore[attr-defined]
        return values(stage, now)  # type: ignore[arg-type]

    bath.values = noting  # type: ignore[union-attr, method-assign]
    tokens = torch.from_numpy(found.calibration.tokens)
    run_circuit(model, circuit, torch.cat([tokens, tokens]), bath)
    weights = found._weights(found._places(slice(0, 9)), _draw(1))
    background = {name: part.mean(0, keepdim=True) + _surrogate(part, weights) for name, part in seen.items()}
    by_constant = run_circuit(model, circuit, torch.from_numpy(found.evaluation.tokens), background)
    sequential = found.run(circuit, BACKGROUNDS["full-sequential"], 1)
    torch.testing.assert_close(sequential[:, 0], by_constant[:, -1], atol=1e-9, rtol=0)
    single = found.run(circuit, BACKGROUNDS["full"], 1)
    assert float((single - sequential).abs().max()) > 1e-2


def test_sequential_is_single_shot_where_nothing_is_removed_before() -> None:
    model = MODELS["plain"]
    kept = model.graph.exists.copy()
    kept[3:, -1] = False
    circuit = Circuit(model.graph, kept)
    found = scene(model)
    torch.testing.assert_close(
        found.run(circuit, BACKGROUNDS["full-sequential"]),
        found.run(circuit, BACKGROUNDS["full"]),
        atol=1e-9,
        rtol=0,
    )


def test_independent_baths_are_shared_ones_for_a_single_reader_in_distribution() -> None:
    """Only the logits lose edges: then both have one surrogate, told apart by their streams of noise."""
    model = PlainModel(linear=True, seed=4)
    kept = model.graph.exists.copy()
    kept[3:, -1] = False
    found = scene(model)
    draws = {
        rung: torch.cat(
            [found.run(Circuit(model.graph, kept), BACKGROUNDS[rung], draw) for draw in range(400)]
        )
        for rung in ("full", "full-independent")
    }
    shared, independent = (part[:, 0].double() for part in draws.values())
    assert float((shared - independent).abs().max()) > 1e-2
    torch.testing.assert_close(shared.mean(0), independent.mean(0), atol=1e-5, rtol=0)
    ratio = torch.diagonal(independent.T.cov()) / torch.diagonal(shared.T.cov())
    assert float((ratio - 1).abs().max()) < 0.15


@pytest.mark.slow
def test_counterterm_restores_mean_and_covariance() -> None:
    """On a linear model the logits' moments over calibration prompts are the clean ones."""
    model = PlainModel(linear=True, seed=5)
    kept = np.zeros_like(model.graph.exists)
    kept[0, -1] = True  # the embedding alone reaches the logits
    calibration = make_prompts(6, seed=2, template="calibration")
    found = Scene(model, calibration, calibration, 7)
    bath = BACKGROUNDS["full-counterterm"]
    draws = torch.stack([found.run(Circuit(model.graph, kept), bath, draw)[:, 0] for draw in range(600)])
    clean = found.clean_logits[:, 0]
    torch.testing.assert_close(draws.mean((0, 1)), clean.mean(0), atol=1e-4, rtol=0)
    # Law of total covariance over prompts (with divisor M − 1) and draws: 6 × 600 of these leave each
    # variance a standard error of 2.4 %, a quarter of what would be a fault.
    between = draws.mean(0).T.cov()
    total = between + torch.stack([draws[:, prompt].T.cov() for prompt in range(6)]).mean(0)
    assert bool((torch.diagonal(total) > 0.9 * torch.diagonal(clean.T.cov())).all())


def test_mean_is_over_templates_and_positions() -> None:
    model = MODELS["plain"]
    scenes = [
        scene(model),
        Scene(model, make_prompts(3, seed=9, positions=4), make_prompts(2, positions=4), 0),
    ]
    found = mean_values(scenes)["m0"]
    rows = torch.cat([one.bank["m0"].reshape(-1, 8) for one in scenes])
    torch.testing.assert_close(found[0, 0, 0], rows.mean(0))


def test_resampled_values_are_those_of_one_calibration_prompt() -> None:
    model = MODELS["plain"]
    found = scene(model)
    empty = Circuit.empty(model.graph)
    logits = found.run(empty, BACKGROUNDS["permuted"])
    real = record(model, torch.from_numpy(found.calibration.tokens))[1][:, -1:]
    nearest = (logits[:, None] - real[None]).abs().amax((2, 3)).min(1).values
    assert float(nearest.max()) < 1e-10


def test_a_background_has_one_name_and_says_what_it_is() -> None:
    assert set(BACKGROUNDS) - set(CIRCUIT_RUNGS) == {"noise-fitted"}  # a denominator, which nobody asks for
    assert set(CIRCUIT_RUNGS) < set(BACKGROUNDS)
    for name, background in BACKGROUNDS.items():
        suffixes = [] if background.statistics == "single-shot" else [background.statistics]
        suffixes += ["independent"] if background.baths == "independent" else []
        assert name == "-".join([background.kind, *suffixes])


def test_values_that_are_not_finite_are_refused() -> None:
    model, prompts = MODELS["plain"], make_prompts(2)
    values, _ = record(model, torch.from_numpy(prompts.tokens))
    values["m0"] = values["m0"] * torch.inf
    with pytest.raises(MeasurementError, match="NaN or infinite"):
        run_circuit(model, Circuit.empty(model.graph), torch.from_numpy(prompts.tokens), values)


def test_background_words() -> None:
    assert Background("full").draws
    assert not Background("mean").draws
    assert VOCABULARY == 11


def _draw(index: int):  # type: ignore[no-untyped-def]
    from remainder.residual.noise import Draw

    return Draw(index)


def test_optimal_constants_lose_less_than_means() -> None:
    """On the prompts that they are fitted to, by their measure computed apart; the mean is the start."""
    model = MODELS["plain"]
    circuit = random_circuit(model, 0.5)
    prompts = make_prompts(6, seed=2, template="calibration")
    both = Scene(model, prompts, prompts, 7)
    means = mean_values([both])

    def loss(constants: Values) -> float:
        found = both.run(circuit, BACKGROUNDS["optimal-constant"], constants=constants)[:, 0]
        clean = both.clean_logits[:, 0]
        return float(
            torch.nn.functional.kl_div(
                found.log_softmax(-1), clean.log_softmax(-1), log_target=True, reduction="batchmean"
            )
        )

    fitted = fit_constants([both], circuit, means)
    assert {name: value.shape for name, value in fitted.items()} == {n: v.shape for n, v in means.items()}
    assert loss(fitted) < 0.8 * loss(means)
    start = fit_constants([both], circuit, means, steps=0)
    assert all(torch.equal(start[name], means[name]) for name in means)


def test_backgrounds_know_nothing_of_evaluation_but_the_minimally_changed_prompt() -> None:
    """Constants, means and noise are of calibration prompts: other ones to score, and they are the same."""
    model = MODELS["plain"]
    circuit = random_circuit(model, 0.5)
    calibration, *others = (make_prompts(6, seed=seed, template="calibration") for seed in (2, 3, 4))
    scenes = [Scene(model, calibration, evaluation, 7) for evaluation in others]
    assert not np.array_equal(others[0].tokens, others[1].tokens)
    first, second = (mean_values([scene]) for scene in scenes)
    constants = [fit_constants([scene], circuit, first, steps=3) for scene in scenes]
    for name in first:
        assert torch.equal(first[name], second[name])
        assert torch.equal(constants[0][name], constants[1][name])
        assert not torch.equal(constants[0][name], first[name])
    other = Scene(model, others[0], others[0], 7)
    for rung in ("raw", "full", "permuted"):
        # Prompts that are scored with what is fitted to others, and to themselves.
        found, moved = (scene.run(circuit, BACKGROUNDS[rung]) for scene in (scenes[0], other))
        assert not torch.allclose(found, moved)


def test_constants_are_the_same_for_all_prompts() -> None:
    model = PlainModel(linear=True, seed=6)
    prompts = make_prompts(5, seed=3, template="calibration")
    both = Scene(model, prompts, prompts, 7)
    empty = Circuit.empty(model.graph)
    fitted = fit_constants([both], empty, mean_values([both]), steps=5)
    # Nothing but constants reaches the logits, so these are the same for all prompts.
    logits = both.run(empty, BACKGROUNDS["optimal-constant"], constants=fitted)[:, 0]
    torch.testing.assert_close(logits, logits[:1].expand_as(logits), atol=1e-9, rtol=0)
