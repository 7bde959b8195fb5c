"""Tasks whose right answer is known, from calibration through every rung to a model's loss.

Expected values are enumerations and quadratures of the task's own definition, none of which shares code with
the package: planted impurities (CONTROLS, D), a skewed residual before a softplus loss, and a linear network
on Gaussian data (H). Two points and parity (F, E) are in `test_ladder.py`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import special, stats

from remainder.measure.annealed import annealed_loss, unit_log_means
from remainder.measure.gaussianity import measure_gaussianity
from remainder.record.rungs import RUNGS
from remainder.residual.calibration import Calibration
from remainder.residual.kernel import Context, ResidualModel
from remainder.residual.ladder import prepare
from remainder.residual.noise import Draw, NoiseKeys

Array = np.ndarray


def places_of(documents: int, prefix: str, seed: int = 3) -> NoiseKeys:
    """One window of each of so many documents."""
    return NoiseKeys(seed, tuple(f"{prefix}-{i}" for i in range(documents)), (0,) * documents)


def calibrated(x: Array, reconstruction: Array) -> Calibration:
    """Calibration on activations and reconstructions [docs, pos, d], all positions spliced."""
    calibration = Calibration.empty(x.shape[-1])
    calibration.update(
        places_of(len(x), "calibration"),
        torch.from_numpy(reconstruction),
        torch.from_numpy(x - reconstruction),
        torch.ones(x.shape[:2]).bool(),
    )
    return calibration


def context_of(reconstruction: Array) -> Context:
    """Evaluation windows [docs, pos, d], all positions spliced; the activation is not there to be seen."""
    mask = torch.ones(reconstruction.shape[:2]).bool()
    return Context(places_of(len(reconstruction), "evaluation"), torch.from_numpy(reconstruction), mask)


def drawn(model: ResidualModel, context: Context, draw: int) -> Array:
    """x̂ + ε."""
    return (context.reconstruction + model.sample(context, Draw(draw))).numpy()


def by_documents(losses: Array) -> tuple[float, float]:
    """Mean over tokens [docs, pos], and its standard error by documents of equal length."""
    documents = losses.mean(1)
    return float(documents.mean()), float(documents.std(ddof=1) / np.sqrt(len(documents)))


def hermite(order: int) -> tuple[Array, Array]:
    """Nodes and weights of E f(z), z ~ N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    return nodes, weights / weights.sum()


# ------------------------------------------------------------------------------- D: planted impurities

SOURCES, P, NOISE, SLOPE = 12, 0.1, 0.05**0.5, 4.0
DRAWS = 32
SHAPES = {"equal": np.ones(SOURCES), "geometric": 2.0 ** (-np.arange(SOURCES) / 2)}


@dataclass(frozen=True)
class Impurities:
    """t = Σ bⱼ cⱼ + g, P(y = 1) = sigmoid(SLOPE (t − τ)); the first `kept` sources are the reconstruction."""

    shape: str
    kept: int

    @property
    def c(self) -> Array:
        raw = SHAPES[self.shape]
        return raw / np.sqrt(P * (1 - P) * np.square(raw).sum())

    @property
    def threshold(self) -> float:
        return P * float(self.c.sum()) + 0.5

    def states(self, c: Array) -> tuple[Array, Array]:
        """All values of Σ bⱼ cⱼ and their probabilities."""
        b = np.array(list(itertools.product([0, 1], repeat=len(c)))).reshape(2 ** len(c), len(c))
        return b @ c, np.prod(np.where(b == 1, P, 1 - P), axis=1)

    def exact(self) -> dict[str, float]:
        """Every loss, by enumeration and Gauss–Hermite quadrature."""
        nodes, weights = hermite(120)
        u, p_u = self.states(self.c[: self.kept])
        v, p_v = self.states(self.c[self.kept :])
        rest = (v[:, None] + NOISE * nodes).ravel(), (p_v[:, None] * weights).ravel()
        mean = P * self.c[self.kept :].sum()
        power = P * (1 - P) * np.square(self.c[self.kept :]).sum() + NOISE**2
        kernels = {
            "raw": (np.zeros(1), np.ones(1)),
            "mean": (np.array([mean]), np.ones(1)),
            "full": (mean + np.sqrt(power) * nodes, weights),
            "permuted": rest,
        }
        found = {"clean": 0.0, **{f"{name} {mode}": 0.0 for name in kernels for mode in ("q", "a")}}
        for value, probability in zip(u, p_u, strict=True):

            def logit(noise: Array, value: float = value) -> Array:
                return SLOPE * (value + noise - self.threshold)

            one = special.expit(logit(rest[0]))
            found["clean"] += probability * float(
                rest[1] @ -(special.xlogy(one, one) + special.xlogy(1 - one, 1 - one))
            )
            truth = float(rest[1] @ one)  # P(y = 1 | x̂)
            for name, (noise, weight) in kernels.items():
                minus = -special.log_expit(logit(noise)), -special.log_expit(-logit(noise))
                found[f"{name} q"] += probability * float(
                    weight @ (truth * minus[0] + (1 - truth) * minus[1])
                )
                told = float(weight @ special.expit(logit(noise)))
                found[f"{name} a"] -= probability * (truth * np.log(told) + (1 - truth) * np.log1p(-told))
        return found

    def evaluation(self, documents: int, positions: int) -> tuple[Array, Array]:
        """Activations [docs, pos, sources + 1], whose coordinates sum to t, and labels ±1 [docs, pos]."""
        generator = np.random.default_rng(17)
        b = generator.random((documents, positions, SOURCES)) < P
        g = NOISE * generator.normal(size=(documents, positions, 1))
        x = np.concatenate([b * self.c, g], -1)
        one = generator.random((documents, positions)) < special.expit(SLOPE * (x.sum(-1) - self.threshold))
        return x, np.where(one, 1.0, -1.0)

    def calibration(self, documents: int, positions: int) -> Array:
        """Activations whose residuals are spread evenly over their law, so that calibration adds no noise.

        Dropped sources: every state as often as is its probability (a systematic sample of the states in
        order of Σ bⱼ cⱼ); g: quantiles along a golden-ratio lattice. Documents are dealt at random.
        """
        generator = np.random.default_rng(18)
        count, dropped = documents * positions, SOURCES - self.kept
        bits = np.array(list(itertools.product([0, 1], repeat=dropped)))
        value, probability = self.states(self.c[self.kept :])
        order = np.argsort(value)
        chosen = order[np.searchsorted(np.cumsum(probability[order]), (np.arange(count) + 0.5) / count)]
        g = NOISE * special.ndtri(((np.arange(count) + 0.5) * (np.sqrt(5) - 1) / 2) % 1.0)
        kept = generator.random((count, self.kept)) < P
        x = np.concatenate([np.concatenate([kept, bits[chosen]], 1) * self.c, g[:, None]], 1)
        return generator.permutation(x).reshape(documents, positions, -1)

    def reconstruct(self, x: Array) -> Array:
        keep = np.arange(x.shape[-1]) < self.kept
        return np.where(keep, x, 0.0)

    def log_p(self, activation: Array, y: Array) -> Array:
        """The model: log P(y | activation)."""
        return special.log_expit(y * SLOPE * (activation.sum(-1) - self.threshold))


TABLE = {  # CONTROLS, D, where `permuted` annealed of the second row reads .414
    ("equal", 0): {
        "clean": 0.2249, "raw": 2.022, "mean": 0.737, "full": (1.572, 0.616), "permuted": (1.641, 0.615)
    },
    ("equal", 8): {
        "clean": 0.2249, "raw": 0.610, "mean": 0.471, "full": (0.707, 0.414), "permuted": (0.733, 0.412)
    },
    ("geometric", 0): {
        "clean": 0.1748, "raw": 1.387, "mean": 0.661, "full": (1.496, 0.589), "permuted": (1.633, 0.580)
    },
    ("geometric", 4): {
        "clean": 0.1748, "raw": 0.248, "mean": 0.229, "full": (0.272, 0.221), "permuted": (0.275, 0.221)
    },
}  # fmt: skip


@pytest.mark.parametrize(("shape", "kept"), TABLE)
def test_planted_impurities_are_those_of_the_document(shape: str, kept: int) -> None:
    exact = Impurities(shape, kept).exact()
    for name, printed in TABLE[shape, kept].items():
        if isinstance(printed, tuple):
            assert [exact[f"{name} q"], exact[f"{name} a"]] == pytest.approx(printed, abs=0.00051)
        elif name == "clean":
            assert exact["clean"] == pytest.approx(printed, abs=0.000051)
        else:
            assert exact[f"{name} q"] == pytest.approx(printed, abs=0.00051)


@pytest.mark.parametrize(("shape", "kept"), TABLE)
def test_planted_impurities(shape: str, kept: int) -> None:
    task = Impurities(shape, kept)
    exact = task.exact()
    calibration_x = task.calibration(256, 256)
    calibration = calibrated(calibration_x, task.reconstruct(calibration_x))
    x, y = task.evaluation(400, 100)
    context = context_of(task.reconstruct(x))
    clean, error = by_documents(-task.log_p(x, y))
    assert clean == pytest.approx(exact["clean"], abs=3 * error)
    for name in ("raw", "mean"):
        model = prepare(RUNGS[name], calibration)
        loss, error = by_documents(-task.log_p(drawn(model, context, 0), y))
        assert loss == pytest.approx(exact[f"{name} q"], abs=3 * error), name
    for name, draws_a_unit in (("full", 2), ("permuted", 1)):
        model = prepare(RUNGS[name], calibration)
        log_p = np.stack([task.log_p(drawn(model, context, i), y) for i in range(DRAWS)])
        loss, error = by_documents(-log_p.mean(0))
        assert error < 0.006
        assert loss == pytest.approx(exact[f"{name} q"], abs=3 * error), name
        units = unit_log_means(torch.from_numpy(log_p.reshape(DRAWS, -1)), draws_a_unit)
        loss, error = by_documents(annealed_loss(units).reshape(y.shape).numpy())
        assert error < 0.004
        assert loss == pytest.approx(exact[f"{name} a"], abs=3 * error), name


def test_labels_that_know_the_reconstruction_only_make_the_gaussian_residual_exact() -> None:
    """All sources kept, y drawn given x̂: g is Gaussian and independent of (x̂, y), so L_q(full) = L_clean."""
    task = Impurities("geometric", SOURCES)
    calibration_x = task.calibration(100, 100)
    model = prepare(RUNGS["full"], calibrated(calibration_x, task.reconstruct(calibration_x)))
    x, _ = task.evaluation(400, 100)
    reconstruction = task.reconstruct(x)
    one = np.random.default_rng(1).random(x.shape[:2]) < np.exp(
        task.log_p(reconstruction, np.ones(x.shape[:2]))
    )
    y = np.where(one, 1.0, -1.0)
    noisy = np.mean([-task.log_p(drawn(model, context_of(reconstruction), i), y) for i in range(8)], 0)
    gap, error = by_documents(noisy + task.log_p(x, y))
    assert error < 0.001
    assert gap == pytest.approx(0, abs=3 * error)
    # And it is not as if g did nothing.
    raw, error = by_documents(-task.log_p(reconstruction, y) + task.log_p(x, y))
    assert raw < -10 * error


# ----------------------------------------------------------- cumulants: a skewed residual before a softplus

SKEW_P, DEVIATION, OFFSET, CENTRE, SPREAD = 0.1, 0.5, 0.4, -1.7, 0.3
"""r = OFFSET, plus a Bernoulli(SKEW_P) variable centred and scaled to DEVIATION; x̂ ~ N(CENTRE, SPREAD²)."""

ORDERS = (1, 2, 4, 8, 32)


def softplus_loss(order: float) -> float:
    """E log(1 + exp(x̂ + μ + ε)), ε by its binomial law for m residuals, Gaussian for m = ∞."""
    nodes, weights = hermite(150)
    if np.isinf(order):
        noise, weight = DEVIATION * nodes, weights
    else:
        count = np.arange(order + 1)
        weight = stats.binom.pmf(count, order, SKEW_P)
        noise = DEVIATION * (count - order * SKEW_P) / np.sqrt(order * SKEW_P * (1 - SKEW_P))
    u = CENTRE + OFFSET + SPREAD * nodes[:, None] + noise
    return float(weights @ np.logaddexp(0, u) @ weight)


def first_coefficient() -> float:
    """c₁ = (κ₃/6) E ℓ'''(x̂ + μ + σz)."""
    nodes, weights = hermite(150)
    s = special.expit(CENTRE + OFFSET + np.hypot(SPREAD, DEVIATION) * nodes)
    third = DEVIATION**3 * (1 - 2 * SKEW_P) / np.sqrt(SKEW_P * (1 - SKEW_P))
    return float(third / 6 * (weights @ (s * (1 - s) * (1 - 2 * s))))


def fitted_coefficients(losses: list[float]) -> Array:
    """Least squares of L_G + c₁ m^(−1/2) + c₂/m through ORDERS and the Gaussian limit."""
    m = np.array([*ORDERS, np.inf])
    design = np.stack([np.ones(len(m)), m**-0.5, 1 / m], 1)
    found: Array = np.linalg.lstsq(design, np.array(losses), rcond=None)[0]
    return found


def test_the_expansion_in_cumulants_is_good_enough_here() -> None:
    """What the missing m^(−3/2) term does to the fit, from exact losses: below 2 % of c₁."""
    exact = [softplus_loss(m) for m in (*ORDERS, np.inf)]
    assert fitted_coefficients(exact)[1] == pytest.approx(first_coefficient(), rel=0.02)
    # As m grows, c₁ is all there is: the second coefficient is c₂, and the next falls as m^(−1/2) again.
    slopes = [(softplus_loss(m) - exact[-1]) * np.sqrt(m) for m in (256, 1024)]
    assert 2 * slopes[1] - slopes[0] == pytest.approx(first_coefficient(), rel=0.001)


def test_losses_of_perturbative_rungs_and_their_coefficient() -> None:
    # One residual in ten is large, exactly; so μ, σ and all cumulants of the bank are those above.
    large = np.random.default_rng(0).permutation(np.arange(4000) < 4000 * SKEW_P).reshape(40, 100, 1)
    r = OFFSET + DEVIATION * (large - SKEW_P) / np.sqrt(SKEW_P * (1 - SKEW_P))
    calibration = calibrated(r, np.zeros_like(r))
    x_hat = CENTRE + SPREAD * np.random.default_rng(1).normal(size=(400, 2500, 1))
    context = context_of(x_hat)
    # The control variate has mean nought under every rung that has the bank's mean and variance, and takes
    # the noise of the first two orders away.
    u0 = x_hat + OFFSET
    slope, curvature = special.expit(u0), special.expit(u0) * special.expit(-u0)
    # Nor is there noise in x̂: what it would make of the loss without shape is known too.
    base = np.logaddexp(0, u0) + curvature * DEVIATION**2 / 2
    nodes, weights = hermite(150)
    v = CENTRE + OFFSET + SPREAD * nodes
    base_mean = weights @ (np.logaddexp(0, v) + special.expit(v) * special.expit(-v) * DEVIATION**2 / 2)
    losses = []
    for order in (*ORDERS, np.inf):
        name = {1: "permuted", np.inf: "full-unshrunk"}.get(order, f"perturbative-{order}")
        u = drawn(prepare(RUNGS[name], calibration), context, 0)
        e = u - u0
        control = slope * e + curvature / 2 * (e**2 - DEVIATION**2) + base - base_mean
        loss, error = by_documents((np.logaddexp(0, u) - control)[..., 0])
        assert error < 2e-5
        assert loss == pytest.approx(softplus_loss(order), abs=3 * error), name
        losses.append(loss)
    assert fitted_coefficients(losses)[1] == pytest.approx(first_coefficient(), rel=0.05)


# ------------------------------------------------------------------- H: a linear network on Gaussian data

WIDTH, INPUTS, KEPT, NOISE_Y = 8, 6, 3, 0.3


class LinearNetwork:
    """z ~ N(0, I) → x = W₂W₁z + c → f = W₄W₃x; y = βᵀz + noise. x̂ = P x, P an oblique projection.

    Everything is a linear function of z, so every covariance below is a product of matrices.
    """

    def __init__(self) -> None:
        generator = np.random.default_rng(12)
        self.into = generator.normal(size=(WIDTH, 7)) @ generator.normal(size=(7, INPUTS)) / 4
        self.shift = generator.normal(size=WIDTH)
        self.readout = (generator.normal(size=(1, 5)) @ generator.normal(size=(5, WIDTH)) / 6)[0]
        self.teacher = self.into.T @ self.readout + 0.5 * generator.normal(size=INPUTS)
        onto, along = generator.normal(size=(2, WIDTH, KEPT))
        self.projection = onto @ np.linalg.solve(along.T @ onto, along.T)
        # As maps of z: x̂, r, and r less its conditional mean given x̂.
        self.x_hat = self.projection @ self.into
        self.r = self.into - self.x_hat
        gain = self.r @ self.x_hat.T @ np.linalg.pinv(self.x_hat @ self.x_hat.T)
        self.told = gain @ self.x_hat
        self.mean_y = float(self.readout @ self.shift)

    def windows(self, z: Array) -> tuple[Array, Array]:
        """x and x̂ [docs, pos, d]."""
        x = z @ self.into.T + self.shift
        return x, x @ self.projection.T

    def f(self, activation: Array) -> Array:
        return activation @ self.readout

    def y(self, z: Array) -> Array:
        noise = np.random.default_rng(14).normal(size=z.shape[:2])
        return self.mean_y + z @ self.teacher + NOISE_Y * noise

    def squared(self, told: Array, extra: float) -> float:
        """E(y − f)² if the prediction is `told` (a map of z) plus independent noise of power `extra`."""
        return float(np.square(self.teacher - told).sum() + NOISE_Y**2 + extra)

    def losses(self) -> dict[str, float]:
        """Squared loss of the kernels that have one in closed form; biases aside, all means are right."""
        a, sigma = self.readout, self.r @ self.r.T
        left = self.r - self.told
        power = float(a @ sigma @ a)
        hat = a @ self.x_hat
        bias = float(a @ (np.eye(WIDTH) - self.projection) @ self.shift)
        return {
            "clean": self.squared(a @ self.into, 0.0),
            "raw": self.squared(hat, bias**2),
            "mean": self.squared(hat, 0.0),
            "isotropic": self.squared(hat, float(np.trace(sigma) / WIDTH * a @ a)),
            "diagonal": self.squared(hat, float(np.square(a) @ sigma.diagonal())),
            # Squared loss sees no more than mean and covariance, however the residual is made.
            **dict.fromkeys(
                (
                    "full",
                    "full-unshrunk",
                    "temporal",
                    "radial",
                    "perturbative-4",
                    "permuted",
                    "permuted-block",
                ),
                self.squared(hat, power),
            ),
            "linear-mean": self.squared(hat + a @ self.told, 0.0),
            "linear": self.squared(hat + a @ self.told, float(np.square(a @ left).sum())),
        }


@dataclass(frozen=True)
class Measured:
    network: LinearNetwork
    calibration: Calibration
    context: Context
    x: Array
    y: Array

    def loss(self, name: str, draws: int = 4) -> Array:
        """Squared loss of each token [docs, pos], mean over draws."""
        model = prepare(RUNGS[name], self.calibration)
        return np.mean(
            [np.square(self.y - self.network.f(drawn(model, self.context, i))) for i in range(draws)], axis=0
        )

    @property
    def clean(self) -> Array:
        return np.square(self.y - self.network.f(self.x))


@pytest.fixture(scope="module")
def measured() -> Measured:
    network = LinearNetwork()
    # A Gaussian sample whose mean and covariance are exact: calibration adds no noise.
    z = np.random.default_rng(15).normal(size=(40_000, INPUTS))
    z -= z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / len(z))).T
    calibration = calibrated(*network.windows(z.reshape(400, 100, INPUTS)))
    z = np.random.default_rng(16).normal(size=(400, 100, INPUTS))
    x, x_hat = network.windows(z)
    return Measured(network, calibration, context_of(x_hat), x, network.y(z))


def test_the_residual_of_the_linear_network_is_coupled() -> None:
    network = LinearNetwork()
    np.testing.assert_allclose(network.projection @ network.projection, network.projection, atol=1e-9)
    assert np.linalg.matrix_rank(network.projection) == KEPT
    assert np.abs(network.projection - network.projection.T).max() > 0.1
    assert np.trace(network.told @ network.told.T) > 0.3 * np.trace(network.r @ network.r.T)
    np.testing.assert_allclose((network.r - network.told) @ network.x_hat.T, 0, atol=1e-9)


def test_linear_gives_the_clean_output_distribution_and_full_does_not(measured: Measured) -> None:
    network = measured.network
    a = network.readout
    deviation = np.linalg.norm(a @ network.into)
    apart = np.hypot(np.linalg.norm(a @ network.x_hat), np.linalg.norm(a @ network.r))
    for name, expected in (("linear", deviation), ("full", apart), ("permuted", apart)):
        out = network.f(drawn(prepare(RUNGS[name], measured.calibration), measured.context, 0)).ravel()
        standard = (out - network.mean_y) / expected
        assert stats.kstest(standard, "norm").pvalue > 0.01, name
        assert standard.mean() == pytest.approx(0, abs=3 / np.sqrt(out.size))
        assert standard.var() == pytest.approx(1, abs=3 * np.sqrt(2 / out.size))
        if name != "linear":
            assert stats.kstest((out - network.mean_y) / deviation, "norm").pvalue < 1e-6


def test_losses_of_the_linear_network(measured: Measured) -> None:
    for name, expected in measured.network.losses().items():
        loss, error = by_documents(measured.clean if name == "clean" else measured.loss(name))
        assert loss == pytest.approx(expected, abs=3 * error), name


def test_what_the_conditional_gaussian_loses(measured: Measured) -> None:
    """Its excess is 2 E[(y − aᵀx̂) aᵀ(r − E[r|x̂])]; that of `full`, whose μ is no conditional mean, is not."""
    network = measured.network
    a, left = network.readout, network.r - network.told
    excess = 2 * float((network.teacher - a @ network.x_hat) @ (a @ left))
    losses = network.losses()
    assert losses["linear"] - losses["clean"] == pytest.approx(excess, rel=1e-9)
    for name, right in (("linear", True), ("full", False)):
        gap, error = by_documents(measured.loss(name) - measured.clean)
        assert error < 0.05 * abs(excess)
        assert (abs(gap - excess) < 3 * error) is right
    # `full` obeys the formula for residuals that x̂ tells nothing of, 2 E[(y − aᵀx̂) aᵀ(r − μ)].
    general = 2 * float((network.teacher - a @ network.x_hat) @ (a @ network.r))
    assert gap == pytest.approx(general, abs=3 * error)


def test_the_telescope_adds_up_and_a_gaussian_residual_has_no_shape(measured: Measured) -> None:
    losses = {name: by_documents(measured.loss(name))[0] for name in ("full-unshrunk", "permuted", "matched")}
    clean = by_documents(measured.clean)[0]
    shape = losses["full-unshrunk"] - losses["permuted"]
    dependence = losses["permuted"] - losses["matched"]
    rest = losses["matched"] - clean
    assert shape + dependence + rest == pytest.approx(losses["full-unshrunk"] - clean, abs=1e-12)
    _, error = by_documents(measured.loss("full-unshrunk") - measured.loss("permuted"))
    assert shape == pytest.approx(0, abs=3 * error)
    # Cells tell a part of what the reconstruction does.
    exact = measured.network.losses()
    everything = exact["permuted"] - exact["linear"]
    _, error = by_documents(measured.loss("permuted") - measured.loss("matched"))
    assert abs(everything) > 20 * error
    assert 0.5 < dependence / everything < 1 + 3 * error / abs(everything)


def test_the_residual_of_the_linear_network_passes_for_gaussian(measured: Measured) -> None:
    """κ̂ and the direction of largest kurtosis inside their surrogate nulls."""
    estimate = measured.context.reconstruction[:60].double()
    residual = torch.from_numpy(measured.x[:60]) - estimate
    found = measure_gaussianity(
        measured.calibration,
        residual.flatten(0, 1),
        estimate.flatten(0, 1),
        np.repeat(np.arange(60), estimate.shape[1]).tolist(),
        {},
        seed=1,
    )
    assert found.radial_kurtosis.inside
    assert found.maximum_kurtosis.inside
    # Given x̂ it lies in fewer dimensions, so that densities do not compare.
    assert found.linear_gain.value is None
    assert "3 dimensions" in (found.linear_gain.reason or "")
