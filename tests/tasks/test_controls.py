"""Expected values of the controls: figures of CONTROLS, and independent simulations and enumerations.

Monte Carlo estimates are compared within `SIGMAS` standard errors; every seed is fixed.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
from formulas import FOLDER, assert_mean, gaussian_mean, load, losses, noisy_sigmoid
from scipy import integrate, optimize, special, stats

CONTROLS = (
    "gaussian-equivalence",
    "alignment",
    "width",
    "impurities",
    "parity",
    "two-point",
    "linear-gaussian",
    "sums",
    "mixture",
    "bernoulli-gaussian",
    "two-sites",
    "independent-residual",
    "conditional-equivalence",
)

Array = np.ndarray


@pytest.mark.parametrize("control", CONTROLS)
def test_formula_code_stands_alone_and_gives_finite_floats(control: str) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse((FOLDER / control / "expected.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names <= {"numpy", "scipy"}

    module = load(control)
    parameters = module.Parameters()
    with pytest.raises(dataclasses.FrozenInstanceError):
        parameters.seed = 1
    values = module.expected(parameters)
    assert all(type(value) is float and math.isfinite(value) for value in values.values())
    assert values == module.expected(parameters)


# A. Gaussian equivalence


@pytest.mark.parametrize(
    ("activation", "figures"),
    [("relu", (0.39894, 0.5, 0.30141)), ("tanh", (0, 0.60571, 0.16558)), ("erf", (0, 0.56419, 0.12257))],
)
def test_equivalence_moments_are_the_documented_ones(activation: str, figures: tuple[float, ...]) -> None:
    assert load("gaussian-equivalence").activation_moments(activation) == pytest.approx(figures, abs=5.1e-6)


def test_equivalence_covariance_has_the_closed_forms_of_relu_and_erf() -> None:
    module = load("gaussian-equivalence")
    weights = np.random.default_rng(0).normal(size=(60, 20))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    relu = load("alignment").residual_covariance(weights)  # arc-cosine kernel
    assert module.residual_covariance(weights, "relu") == pytest.approx(relu, abs=1e-9)
    overlap = np.clip(weights @ weights.T, -1, 1)
    erf = 2 / np.pi * np.arcsin(overlap / 2) - overlap / np.pi  # Williams (1997); μ1² = 1/π
    assert module.residual_covariance(weights, "erf") == pytest.approx(erf, abs=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_equivalence_of_a_sign_readout_is_that_of_a_simulation(activation: str) -> None:
    module = load("gaussian-equivalence")
    parameters = module.Parameters(activation=activation, dimension=60, features=90, samples=180, seed=1)
    network, values = module.draw(parameters), module.expected(parameters)
    moments = module.activation_moments(activation)
    generator = np.random.default_rng(2)
    x = generator.normal(size=(100_000, 60))
    label = x @ network.teacher > 0
    preactivation = x @ network.weights.T
    clean = (module.ACTIVATIONS[activation](preactivation) - moments.constant) @ network.readout
    raw = moments.linear * preactivation @ network.readout
    residual = clean - raw
    covariance = module.residual_covariance(network.weights, activation)
    noise = generator.normal(size=len(x))
    exact = {
        "raw": raw,
        "full": raw + math.sqrt(network.readout @ covariance @ network.readout) * noise,
        "isotropic": raw + moments.rest * float(np.linalg.norm(network.readout)) * noise,
    }
    for rung, logit in exact.items():
        assert_mean(losses(logit, label), values[rung])
        assert_mean((logit > 0) != label, values[f"{rung} error"])
    # Up to O(1/d): means over draws were −.008 nats and −.004 of errors at d = 50.
    for rung, logit in {"clean": clean, "permuted": raw + generator.permutation(residual)}.items():
        assert_mean(losses(logit, label), values[rung], allowance=0.5 / 60)
        assert_mean((logit > 0) != label, values[f"{rung} error"], allowance=0.25 / 60)
    # The interpretation predicts better than the model, which the Gaussian residual reproduces.
    assert values["raw"] < values["clean"] - 0.03

    spread = float(network.readout @ covariance @ network.readout)
    yes = noisy_sigmoid(raw, spread)
    assert_mean(-np.log(np.where(label, yes, 1 - yes)), values["full annealed"])
    # More sharply: (raw, βᵀx) is Gaussian, so that the same is an integral over raw.
    overlap = moments.linear * float(network.readout @ network.weights @ network.teacher)
    seen = moments.linear**2 * float(np.sum((network.weights.T @ network.readout) ** 2))

    def annealed(logit: Array) -> Array:
        positive = stats.norm.cdf(overlap / seen * logit, scale=math.sqrt(1 - overlap**2 / seen))
        yes, no = noisy_sigmoid(logit, spread), noisy_sigmoid(-logit, spread)
        return -positive * np.log(yes) - (1 - positive) * np.log(no)

    assert values["full annealed"] == pytest.approx(gaussian_mean(annealed, variance=seen), abs=2e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu", "erf"])
def test_equivalence_of_a_linear_teacher_and_ridge_are_those_of_a_simulation(activation: str) -> None:
    module = load("gaussian-equivalence")
    moments = module.activation_moments(activation)
    generator = np.random.default_rng(3)
    differences, trained = [], []
    for seed in range(12):
        parameters = module.Parameters(activation, "linear", 80, 120, 240, ridge=0.05, seed=seed)
        network, values = module.draw(parameters), module.expected(parameters)
        # The ridge theory is of exactly Gaussian features: train on those, and take the exact test error.
        x = generator.normal(size=(240, 80))
        phi = moments.linear * x @ network.weights.T + moments.rest * generator.normal(size=(240, 120))
        labels = x @ network.teacher + math.sqrt(0.1) * generator.normal(size=240)
        readout = np.linalg.solve(phi.T @ phi / 240 + 0.05 * np.eye(120), phi.T @ labels / 240)
        surrogate = module.expected_of_readout(parameters, network._replace(readout=readout))
        differences.append(surrogate["isotropic squared error"] / values["ridge squared error"] - 1)
        trained.append(values["isotropic squared error"] / values["ridge squared error"] - 1)
    assert_mean(np.array(differences), 0.0, allowance=1.0 / 80)
    assert_mean(np.array(trained), 0.0, allowance=3.0 / 80)  # real features: Gaussian up to O(1/d)

    x = generator.normal(size=(50_000, 80))
    y = x @ network.teacher + math.sqrt(0.1) * generator.normal(size=len(x))
    preactivation = x @ network.weights.T
    raw = moments.linear * preactivation @ network.readout
    clean = (module.ACTIVATIONS[activation](preactivation) - moments.constant) @ network.readout
    assert_mean((y - raw) ** 2, values["raw squared error"])
    # Labels that do not see r: the right covariance gives the model's own squared error.
    assert_mean((y - clean) ** 2, values["full squared error"])
    assert_mean((clean - raw) ** 2, values["full squared error"] - values["raw squared error"])
    independent = moments.rest * generator.normal(size=(20_000, 120)) @ network.readout
    assert_mean(independent**2, values["isotropic squared error"] - values["raw squared error"])


@pytest.mark.parametrize(("activation", "figure"), [("tanh", 0.3239), ("relu", 0.6946), ("erf", 0.2622)])
def test_equivalence_ridge_figures_are_documented_draws(activation: str, figure: float) -> None:
    """CONTROLS names neither seed nor noise: a variance of 0.1 puts its three figures among the draws."""
    module = load("gaussian-equivalence")
    found = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        weights, teacher = generator.normal(size=(600, 400)), generator.normal(size=400)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        teacher /= np.linalg.norm(teacher)
        moments = module.activation_moments(activation)
        found.append(module.ridge_squared_error(weights, teacher, moments, 1200, 0.01, 1.0, 1.1))
    assert abs(np.mean(found) - figure) < 3 * np.std(found, ddof=1)
    assert np.std(found) < 0.05 * figure


@pytest.mark.parametrize(
    ("clean_error", "raw_error", "clean", "raw"),
    [(0.2188, 0.1854, 0.4691, 0.3930), (0.2989, 0.2313, 0.6875, 0.4771)],
    ids=["tanh", "relu"],
)
def test_equivalence_sign_figures_agree_with_each_other(
    clean_error: float, raw_error: float, clean: float, raw: float
) -> None:
    """Two errors and one cross-entropy of CONTROLS determine m, both q and the scale; the other follows."""
    module = load("gaussian-equivalence")
    cosine, raw_cosine = math.cos(math.pi * clean_error), math.cos(math.pi * raw_error)

    def of_scale(scale: float) -> float:
        return module.cross_entropy(cosine * scale, scale**2)

    best = optimize.minimize_scalar(of_scale, bounds=(0.1, 20), method="bounded").x
    scale = optimize.brentq(lambda s: of_scale(s) - clean, best, 20)  # an overfitted readout is too sure
    overlap = cosine * scale
    assert module.sign_error(overlap, scale**2) == pytest.approx(clean_error)
    assert module.cross_entropy(overlap, (overlap / raw_cosine) ** 2) == pytest.approx(raw, abs=5e-4)


# B. Alignment


def test_alignment_is_that_of_a_simulation() -> None:
    module = load("alignment")
    parameters = module.Parameters(seed=4)  # d = 50, p = 400
    network, values = module.draw(parameters), module.expected(parameters)
    generator = np.random.default_rng(5)
    x = generator.normal(size=(50_000, 50))
    z = x @ network.teacher
    y = z + (z**2 - 1) / math.sqrt(2) + math.sqrt(0.1) * generator.normal(size=len(x))
    preactivation = x @ network.weights.T
    clean = (np.maximum(preactivation, 0) - 1 / math.sqrt(2 * math.pi)) @ network.readout
    raw = 0.5 * preactivation @ network.readout
    residual = clean - raw
    assert_mean((y - clean) ** 2, values["clean"])
    assert_mean((y - raw) ** 2, values["raw"])
    assert_mean((y - raw - np.roll(residual, 1)) ** 2, values["permuted"])
    assert_mean((y - raw - residual.std() * generator.normal(size=len(x))) ** 2, values["full"])
    assert_mean(2 * y * residual, values["gap"])
    assert values["gap"] > 0.1
    # More sharply: w·x given z is Gaussian, and so E[y max(w·x, 0)] is an integral over z alone.
    cosine = network.weights @ network.teacher
    grid = np.linspace(-9, 9, 1801)
    weights = stats.norm.pdf(grid) * (grid[1] - grid[0])
    centre, scale = cosine[:, None] * grid, np.sqrt(1 - cosine[:, None] ** 2)
    relu = centre * stats.norm.cdf(centre / scale) + scale * stats.norm.pdf(centre / scale)
    correlation = relu @ (weights * (grid + (grid**2 - 1) / math.sqrt(2))) - 0.5 * cosine
    assert values["gap"] == pytest.approx(2 * float(network.readout @ correlation), abs=1e-8)
    factor = np.linalg.cholesky(module.residual_covariance(network.weights) + 1e-12 * np.eye(400))
    spread = values["full"] - values["raw"]
    assert float(np.sum((factor.T @ network.readout) ** 2)) == pytest.approx(spread, rel=1e-6)


def test_alignment_vanishes_with_the_quadratic_part() -> None:
    module = load("alignment")
    values = module.expected(module.Parameters(quadratic=0.0))
    assert values["gap"] == 0
    assert values["clean"] == values["full"]


def test_alignment_is_undone_by_keeping_the_square_that_labels_depend_on() -> None:
    module = load("conditional-equivalence")
    parameters = module.Parameters(dimension=40, features=200, samples=500, seed=4)
    network, values = module.draw(parameters), module.expected(parameters)
    generator = np.random.default_rng(9)
    x = generator.normal(size=(60_000, 40))
    z = x @ network.teacher
    y = z + (z**2 - 1) / math.sqrt(2) + math.sqrt(0.1) * generator.normal(size=len(x))
    preactivation = x @ network.weights.T
    features = np.maximum(preactivation, 0) - 1 / math.sqrt(2 * math.pi)
    # The features' part along (z² − 1)/√2, by its correlation with them.
    square = (z**2 - 1) / math.sqrt(2)
    along = features.T @ square / len(x)
    cosine = network.weights @ network.teacher
    assert along == pytest.approx(module.QUADRATIC * cosine**2, abs=0.02)
    kept = 0.5 * preactivation + np.outer(square, module.QUADRATIC * cosine**2)
    residual = features - kept
    left = residual @ network.readout
    assert_mean((y - features @ network.readout) ** 2, values["clean"])
    assert_mean((y - kept @ network.readout) ** 2, values["raw"])
    assert_mean((y - kept @ network.readout - np.roll(left, 1)) ** 2, values["permuted"])
    assert_mean(
        (y - kept @ network.readout - left.std() * generator.normal(size=len(x))) ** 2, values["full"]
    )
    assert_mean(2 * y * left, 0.0)
    variance = float(network.readout @ module.residual_covariance(network) @ network.readout)
    assert_mean(left**2, variance)
    before = load("alignment").expected(load("alignment").Parameters(40, 200, 500, seed=4))
    assert values["clean"] == pytest.approx(before["clean"])
    assert before["gap"] > 0.1


# C. Width


@pytest.mark.parametrize(
    ("activation", "width", "layers", "printed"),
    [("linear", 64, 6, "0.499"), ("relu", 64, 6, "1.370"), ("tanh", 128, 10, "0.1295")],
)
def test_width_kurtosis_is_the_documented_and_the_simulated_one(
    activation: str, width: int, layers: int, printed: str
) -> None:
    module = load("width")
    value = module.excess_kurtosis(activation, width, layers)
    digits = len(printed.split(".")[1])
    assert f"{value:.{digits}f}" == printed
    # Units of a layer are independent given the layer below: a network is a chain of variances.
    generator = np.random.default_rng(6)
    batches = []
    for _ in range(20):
        variance = np.ones(2000 if activation == "relu" else 1000)
        for _ in range(layers - 1):
            z = np.sqrt(variance)[:, None] * generator.standard_normal((len(variance), width))
            constant = module.WEIGHT_VARIANCE[activation]
            variance = constant * np.mean(module.ACTIVATIONS[activation](z) ** 2, axis=1)
        batches.append(3 * (np.mean(variance**2) / np.mean(variance) ** 2 - 1))
    # A ratio of batch means is biased by 1/batch; other activations leave out O(1/n²).
    assert_mean(np.array(batches), value, allowance=value * (3.0 / width if activation == "tanh" else 0.01))


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_width_recursion_has_the_closed_forms_as_its_limit(activation: str) -> None:
    module = load("width")
    for layers in (2, 3, 7):
        exact, leading = (
            f(activation, 10**6, layers) for f in (module.excess_kurtosis, module.leading_excess_kurtosis)
        )
        assert leading == pytest.approx(exact, rel=1e-4)


def test_width_kurtosis_of_critical_tanh_tends_to_its_law() -> None:
    """2L/n as L → ∞, from above and slowly (the correction is of order log L / L)."""
    module = load("width")
    ratios = [module.excess_kurtosis("tanh", 100, layers) / (2 * layers / 100) for layers in (10, 100, 1000)]
    assert ratios == sorted(ratios) or ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("activation", "width"), [("linear", 16), ("relu", 16), ("relu", 64)])
def test_width_losses_are_those_of_a_simulation(activation: str, width: int) -> None:
    module = load("width")
    generator = np.random.default_rng(7)
    variance = np.ones(200_000)
    for _ in range(5):
        if activation == "linear":
            variance *= generator.chisquare(width, len(variance)) / width
        else:  # the squares of the active half, gamma with none active being 0
            active = generator.binomial(width, 0.5, len(variance))
            variance *= 2 * generator.standard_gamma(active / 2) * 2 / width
    values = module.expected(module.Parameters(activation, width))
    z = np.sqrt(variance) * generator.standard_normal(len(variance))
    control = np.abs(z) / 2  # softplus less its odd part, of mean 0
    assert_mean(control + np.log1p(np.exp(-np.abs(z))), values["clean"])
    assert values["full"] == pytest.approx(gaussian_mean(lambda t: np.logaddexp(0, t)), abs=1e-9)
    assert values["shape"] == values["full"] - values["permuted"] > 0
    assert values["permuted"] == values["clean"]
    assert values["raw"] == values["mean"] == math.log(2)


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_width_shape_gap_falls_as_one_over_width(activation: str) -> None:
    module = load("width")
    values = module.expected(module.Parameters(activation))
    assert values["exponent"] == pytest.approx(values["asymptotic exponent"], abs=0.1)
    if activation != "tanh":
        exact = module.exact_losses(activation, 4096, 6)["shape"]
        assert module.leading_shape_gap(activation, 4096, 6) == pytest.approx(exact, rel=0.002)
        return
    # A tanh layer of width 64 on one below: the shape gap of v against a Gaussian of the same variance.
    generator = np.random.default_rng(8)
    variance = np.mean(np.tanh(generator.standard_normal((40_000, 64))) ** 2, axis=1)
    mean, curve = variance.mean(), np.linspace(0, 1, 4001)
    table = module.softplus_mean(curve)
    # Less the tangent at the mean, whose mean is 0: the rest is of second order.
    tangent = float(np.gradient(table, curve)[np.searchsorted(curve, mean)]) * (variance - mean)
    gaps = np.interp(mean, curve, table) + tangent - np.interp(variance, curve, table)
    assert_mean(gaps, module.leading_shape_gap("tanh", 64, 2), allowance=0.03 * gaps.mean())


def test_width_refuses_exact_losses_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="not 'tanh'"):
        load("width").exact_losses("tanh", 64, 6)


# D. Impurities

RUNGS = ("raw", "mean", "full", "permuted", "full annealed", "permuted annealed")


@pytest.mark.parametrize(
    ("law", "kept", "clean", "figures"),
    [
        ("equal", 0, 0.2249, ("2.022", "0.737", "1.572", "1.641", "0.616", "0.615")),
        ("equal", 8, 0.2249, ("0.610", "0.471", "0.707", "0.733", "0.414", "0.412")),
        ("geometric", 0, 0.1748, ("1.387", "0.661", "1.496", "1.633", "0.589", "0.580")),
        ("geometric", 4, 0.1748, ("0.248", "0.229", "0.272", "0.275", "0.221", "0.221")),
    ],
)
def test_impurities_are_the_documented_ones(
    law: str, kept: int, clean: float, figures: tuple[str, ...]
) -> None:
    module = load("impurities")
    values = module.expected(module.Parameters(law, kept))
    assert round(values["clean"], 4) == clean
    assert tuple(f"{values[rung]:.3f}" for rung in RUNGS) == figures
    assert values["linear"] == pytest.approx(values["full"])  # r is independent of x̂


def test_impurities_of_equal_size_are_a_binomial_sum() -> None:
    """k = 8, permuted annealed: the entropy of the label given how many of the kept features are active."""
    size = 1 / math.sqrt(12 * 0.1 * 0.9)
    threshold = 12 * 0.1 * size + 0.5
    entropy = 0.0
    for seen in range(9):
        yes = sum(
            stats.binom.pmf(hidden, 4, 0.1)
            * gaussian_mean(
                lambda t: special.expit(4 * t), mean=(seen + hidden) * size - threshold, variance=0.05
            )
            for hidden in range(5)
        )
        entropy += stats.binom.pmf(seen, 8, 0.1) * stats.entropy([yes, 1 - yes])
    module = load("impurities")
    assert module.expected(module.Parameters())["permuted annealed"] == pytest.approx(entropy, abs=1e-9)
    assert entropy == pytest.approx(0.41236, abs=5e-6)


@pytest.mark.parametrize(
    ("law", "kept", "figure"),
    [("equal", 0, 0.86), ("equal", 8, 1.05), ("geometric", 0, 0.66), ("geometric", 4, 1.06)],
)
def test_impurities_amplitude_is_the_documented_one(law: str, kept: int, figure: float) -> None:
    module = load("impurities")
    assert module.best_amplitude(module.Parameters(law, kept)) == pytest.approx(figure, abs=0.005)


def _brute_force(parameters: Any) -> dict[str, float]:
    """Control D by loops over states, straight from its definition."""
    m, p, gain = parameters.features, parameters.probability, parameters.gain
    ratio = 1.0 if parameters.law == "equal" else 2**-0.5
    sizes = [ratio**j for j in range(m)]
    scale = math.sqrt(p * (1 - p) * sum(c * c for c in sizes))
    sizes = [c / scale for c in sizes]
    threshold = p * sum(sizes) + parameters.offset
    states = []
    for bits in itertools.product((0, 1), repeat=m):
        active = [j for j in range(m) if bits[j]]
        if parameters.selection == "static":
            kept = [j for j in active if j < parameters.kept]
        else:
            kept = active[: parameters.kept]
        chance = p ** len(active) * (1 - p) ** (m - len(active))
        known = sum(sizes[j] for j in kept)
        states.append((chance, known, sum(sizes[j] for j in active) - known))

    def positive(at: float) -> float:
        return gaussian_mean(lambda t: special.expit(gain * t), mean=at, variance=parameters.background)

    def pair(mean: float, variance: float, yes: float) -> tuple[float, float]:
        """Quenched and annealed loss at a Gaussian of logits, a share `yes` of labels positive."""
        no_loss = gaussian_mean(lambda t: np.logaddexp(0, gain * t), mean=mean, variance=variance)
        p_yes = gaussian_mean(lambda t: special.expit(gain * t), mean=mean, variance=variance)
        return no_loss - yes * gain * mean, -yes * math.log(p_yes) - (1 - yes) * math.log(1 - p_yes)

    chance, known, left = np.array(states).T
    mean, spread = chance @ left, chance @ left**2 - (chance @ left) ** 2 + parameters.background
    design = np.stack([np.ones_like(known), known], axis=1)
    line = np.linalg.lstsq(np.sqrt(chance)[:, None] * design, np.sqrt(chance) * left, rcond=None)[0]
    unexplained = chance @ (left - design @ line) ** 2 + parameters.background
    result = dict.fromkeys(
        ("clean", *RUNGS, "linear-mean", "linear", "linear annealed"),
        0.0,
    )
    for weight, at, rest in states:
        yes = positive(at + rest - threshold)
        result["clean"] += weight * gaussian_mean(
            lambda t: special.entr(special.expit(gain * t)) + special.entr(special.expit(-gain * t)),
            mean=at + rest - threshold,
            variance=parameters.background,
        )
        for rung, shift in {"raw": 0.0, "mean": mean, "linear-mean": line[0] + line[1] * at}.items():
            logit = gain * (at + shift - threshold)
            result[rung] += weight * (np.logaddexp(0, logit) - yes * logit)
        for rung, shift, variance in (
            ("full", mean, spread),
            ("linear", line[0] + line[1] * at, unexplained),
        ):
            quenched, annealed = pair(at + shift - threshold, variance, yes)
            result[rung] += weight * quenched
            result[f"{rung} annealed"] += weight * annealed
        copies = [
            (w, *pair(at + r - threshold, parameters.background, yes), positive(at + r - threshold))
            for w, _, r in states
        ]
        result["permuted"] += weight * sum(w * quenched for w, quenched, _, _ in copies)
        p_yes = sum(w * y for w, _, _, y in copies)
        result["permuted annealed"] -= weight * (yes * math.log(p_yes) + (1 - yes) * math.log(1 - p_yes))
    return result


@pytest.mark.parametrize("selection", ["static", "per-sample"])
def test_impurities_are_those_of_a_plain_enumeration(selection: str) -> None:
    module = load("impurities")
    parameters = module.Parameters("geometric", 2, selection, features=4, probability=0.3)
    values = module.expected(parameters)
    assert values == pytest.approx(_brute_force(parameters), abs=1e-8)


def test_impurities_kept_per_sample_are_those_of_a_simulation() -> None:
    module = load("impurities")
    parameters = module.Parameters("geometric", 2, "per-sample")
    values = module.expected(parameters)
    generator = np.random.default_rng(9)
    c = 2.0 ** (-np.arange(12) / 2)
    c /= math.sqrt(0.09 * np.sum(c**2))
    contributions = np.where(generator.random((400_000, 12)) < 0.1, c, 0.0)
    background = math.sqrt(0.05) * generator.normal(size=len(contributions))
    reconstruction = np.sort(contributions, axis=1)[:, -2:].sum(1)
    residual = contributions.sum(1) - reconstruction + background
    threshold = 0.1 * c.sum() + 0.5
    label = generator.random(len(residual)) < special.expit(4 * (reconstruction + residual - threshold))

    def simulated(epsilon: Array) -> Array:
        return losses(4 * (reconstruction + epsilon - threshold), label)

    assert_mean(simulated(residual), values["clean"])
    assert_mean(simulated(np.zeros(1)), values["raw"])
    assert_mean(simulated(np.roll(residual, 1)), values["permuted"])
    noise = generator.normal(residual.mean(), residual.std(), len(residual))
    assert_mean(simulated(noise), values["full"])


def test_impurities_all_kept_and_labels_of_the_reconstruction_leave_no_gap() -> None:
    module = load("impurities")
    values = module.expected(module.Parameters("geometric", 12, labels="reconstruction"))
    assert values["full"] == pytest.approx(values["clean"], abs=1e-9)
    assert values["permuted"] == pytest.approx(values["clean"], abs=1e-9)
    # ... and some where the labels see the residual.
    values = module.expected(module.Parameters("geometric", 12))
    assert values["full"] - values["clean"] > 0.01


# E. Parity


@pytest.mark.parametrize("signs", [2, 3, 4])
def test_parity_has_no_cumulant_below_its_order(signs: int) -> None:
    module = load("parity")
    for size in range(signs):
        for indices in itertools.combinations_with_replacement(range(signs), size):
            assert module.joint_cumulant(signs, indices) == pytest.approx(0, abs=1e-12)
    assert module.joint_cumulant(signs, tuple(range(signs))) == pytest.approx(1)


def test_parity_is_that_of_a_simulation() -> None:
    module = load("parity")
    values = module.expected(module.Parameters())
    generator = np.random.default_rng(10)
    signs = generator.choice((-1.0, 1.0), size=(200_000, 3))
    label = signs.prod(1) > 0
    direction = generator.normal(size=signs.shape)
    radial = math.sqrt(3) * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    draws = {"clean": signs, "full": direction, "permuted": np.roll(signs, 1, axis=0), "radial": radial}
    for rung, noise in draws.items():
        logit = 4 * noise.prod(1)
        assert_mean((logit > 0) != label, values[f"{rung} error"])
        if rung != "radial":
            assert_mean(losses(logit, label), values[rung], allowance=1e-12)
    assert_mean(losses(np.zeros(len(label)), label), values["raw"], allowance=1e-12)
    # Annealed: the same draws for a label and its opposite, the noise integrated out.
    assert math.exp(-values["full annealed"]) == pytest.approx(
        float(special.expit(4 * np.concatenate([direction, -direction]).prod(1)).mean()), abs=1e-12
    )


def test_parity_of_one_sign_is_a_plain_integral() -> None:
    module = load("parity")
    values = module.expected(module.Parameters(signs=1))
    integral, _ = integrate.quad(lambda g: np.logaddexp(0, 4 * g) * stats.norm.pdf(g), -10, 10)
    assert values["full"] == pytest.approx(integral, abs=1e-8)
    assert values["permuted"] == pytest.approx((np.logaddexp(0, 4) + np.logaddexp(0, -4)) / 2)


# F. Two points


def test_two_points_are_the_documented_and_the_enumerated_ones() -> None:
    values = load("two-point").expected(load("two-point").Parameters())
    assert values["clean"] == values["permuted"] == values["raw"] == 0
    assert f"{values['full']:.5f}" == "0.13361"
    assert values["full"] == pytest.approx(2 * (1 - stats.norm.cdf(1.5)))
    generator = np.random.default_rng(11)
    assert_mean(np.abs(generator.normal(size=200_000)) > 1.5, values["full"])
    for count in (2, 4, 8):
        sums = np.array(list(itertools.product((-1, 1), repeat=count))).sum(1) / math.sqrt(count)
        assert values[f"perturbative-{count}"] == pytest.approx(np.mean(np.abs(sums) > 1.5))
    sums = generator.choice((-1, 1), size=(50_000, 32)).sum(1) / math.sqrt(32)
    assert_mean(np.abs(sums) > 1.5, values["perturbative-32"])


def test_two_point_cross_entropies_are_those_of_a_simulation() -> None:
    module = load("two-point")
    values = module.cross_entropies(module.Parameters())
    generator = np.random.default_rng(13)
    signs = generator.choice((-1.0, 1.0), size=(200_000, 8))
    draws = {
        "clean": signs[:, 0],
        "full": generator.normal(size=len(signs)),
        "permuted": signs[:, 1],
        "raw": np.zeros(len(signs)),
        "perturbative-2": signs[:, :2].sum(1) / math.sqrt(2),
        "perturbative-8": signs.sum(1) / math.sqrt(8),
    }
    for rung, epsilon in draws.items():
        assert_mean(losses(4 * (1.5 - np.abs(epsilon)), np.ones(len(signs), bool)), values[rung], 1e-12)
    integral, _ = integrate.quad(
        lambda g: 2 * stats.norm.pdf(g) * np.logaddexp(0, 4 * (g - 1.5)), 0, 12, points=[1.5]
    )
    assert values["full"] == pytest.approx(integral, abs=1e-9)


# H. Linear-Gaussian


def test_linear_gaussian_is_that_of_a_simulation() -> None:
    module = load("linear-gaussian")
    parameters = module.Parameters(dimension=10, kept=4, seed=3)
    network, values = module.draw(parameters), module.expected(parameters)
    generator = np.random.default_rng(12)
    x = generator.multivariate_normal(network.mean, network.covariance, 200_000)
    logit = x @ network.teacher
    label = generator.random(len(x)) < special.expit(logit)
    y = logit + math.sqrt(0.1) * generator.normal(size=len(x))
    reconstruction = x @ network.projection
    residual = x - reconstruction
    mean, covariance = residual.mean(0), np.cov(residual.T)
    # The regression of r on x̂, by least squares on the data.
    design = np.column_stack([np.ones(len(x)), reconstruction])
    predicted = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    noise = generator.normal(size=len(x))
    a = network.readout
    isotropic = math.sqrt(np.trace(covariance) / 10) * np.linalg.norm(a)
    outputs = {
        "clean": residual @ a,
        "raw": np.zeros(len(x)),
        "mean": np.full(len(x), mean @ a),
        "isotropic": mean @ a + isotropic * noise,
        "diagonal": mean @ a + math.sqrt(a**2 @ np.diag(covariance)) * noise,
        "full": mean @ a + math.sqrt(a @ covariance @ a) * noise,
        "linear-mean": predicted @ a,
        "linear": predicted @ a + ((residual - predicted) @ a).std() * noise,
        "permuted": np.roll(residual, 1, axis=0) @ a,
    }
    assert outputs.keys() == module.outputs(network).keys()
    for rung, epsilon in outputs.items():
        f = reconstruction @ a + epsilon
        assert_mean(losses(f, label), values[rung])
        assert_mean((y - f) ** 2, values[f"{rung} squared error"])
    for rung, power in {
        "isotropic": isotropic**2,
        "diagonal": a**2 @ np.diag(covariance),
        "full": a @ covariance @ a,
    }.items():
        added = values[f"{rung} squared error"] - values["mean squared error"]
        assert added == pytest.approx(power, rel=0.015)
    for rung, centre, variance in (
        ("full", np.full(len(x), mean @ a), a @ covariance @ a),
        ("linear", predicted @ a, ((residual - predicted) @ a).var()),
    ):
        yes = noisy_sigmoid(reconstruction @ a + centre, float(variance))
        assert_mean(-np.log(np.where(label, yes, 1 - yes)), values[f"{rung} annealed"])
    assert_mean(2 * (y - reconstruction @ a) * ((residual - predicted) @ a), values["linear excess"])
    whitened = np.linalg.lstsq(np.linalg.cholesky(network.covariance), (x - network.mean).T, rcond=None)[0]
    radial = (
        np.mean(np.sum(whitened**2, axis=0) ** 2) / np.mean(np.sum(whitened**2, axis=0)) ** 2 * 10 / 12 - 1
    )
    assert radial == pytest.approx(values["excess kurtosis"], abs=0.005)


def test_linear_gaussian_laws() -> None:
    module = load("linear-gaussian")
    network, values = module.draw(module.Parameters()), module.expected(module.Parameters())
    clean, linear = (module.outputs(network)[rung] for rung in ("clean", "linear"))
    assert linear.mean == pytest.approx(clean.mean)
    assert linear.variance + linear.noise == pytest.approx(clean.variance)
    excess = values["linear squared error"] - values["clean squared error"]
    assert excess == pytest.approx(values["linear excess"])

    # Labels of the model: the annealed loss of the true conditional law is the entropy of the label given x̂.
    own = module.Parameters(disagreement=0.0)
    network, values = module.draw(own), module.expected(own)
    output = module.outputs(network)["linear"]
    f = output.mean + math.sqrt(output.variance) * np.linspace(-8, 8, 801)
    yes = noisy_sigmoid(f, output.noise)
    weights = stats.norm.pdf(np.linspace(-8, 8, 801)) * 0.02
    entropy = float(weights @ (special.entr(yes) + special.entr(1 - yes)))
    assert values["linear annealed"] == pytest.approx(entropy, abs=1e-5)
    assert values["clean"] < values["linear annealed"] < values["full annealed"]
