"""Tasks of the controls: what their scripts build, against the network and the claims of their formulas.

Rungs are simulated by hand here: hooks, NumPy and independent noise, no code of the harness that measures.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

from remainder.record.rungs import KERNELS
from remainder.task.script import load_script
from remainder.task.spec import load_task
from remainder.validation.claims import Claim, needs, parse_quantity, read_claims, read_laws
from remainder.validation.figures import read_figure
from remainder.validation.several_sites import JOINED

ROOT = Path(__file__).resolve().parents[2] / "tasks/controls"
NAMES = sorted(path.parent.name for path in ROOT.glob("*/task.toml"))
SIGMAS = 4.0

Array = np.ndarray


class Loaded(NamedTuple):
    """A control: its task, the scripts that build it and know its answers, and what the first one built."""

    task: Any
    script: Any
    expected: Any
    built: Any


def scripts(name: str) -> tuple[Any, Any, Any]:
    """Task, building script and script of expected values."""
    task = load_task(f"controls/{name}")
    folder = ROOT / name
    return task, load_script(folder / task.build.script), load_script(folder / task.build.expected)


@functools.cache
def load(name: str, seed: int = 1) -> Loaded:
    task, script, expected = scripts(name)
    return Loaded(task, script, expected, script.build(seed, ROOT / name, **task.build.parameters))


@functools.cache
def claims_of(name: str) -> list[Claim]:
    """Of the world of seed 1."""
    task, _, expected = scripts(name)
    return read_claims(expected, 1, task.build.parameters, name)


def small(name: str, monkeypatch: pytest.MonkeyPatch, seed: int, **parameters: int) -> Any:
    """The same with few windows, where the script allows it."""
    task, script, _ = scripts(name)
    if name != "linear-gaussian":
        monkeypatch.setattr(script.data, "WINDOWS", {"fit": 2, "calibration": 3, "evaluation": 2})
    monkeypatch.setattr(script.data, "FRESH", 4)
    return script.build(seed, ROOT / name, **task.build.parameters, **parameters)


def run(module: torch.nn.Module, inputs: Array, hook: str, put: Array | None = None) -> tuple[Array, Array]:
    """Outputs [rows, …] of rows of inputs, and the output of a submodule; `put` replaces the latter."""
    seen = []

    def replace(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor | None:
        seen.append(output)
        return None if put is None else torch.from_numpy(put.astype(np.float32))[None]

    handle = module.get_submodule(hook).register_forward_hook(replace)
    try:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(inputs)[None])[0]
    finally:
        handle.remove()
    assert len(seen) == 1
    return outputs.numpy().astype(np.float64), seen[0][0].numpy().astype(np.float64)


def losses(outputs: Array, targets: Array) -> Array:
    """Nats of each row: cross-entropy of classes, −log N(y; f, 1) of numbers."""
    if targets.dtype == np.int64:
        likely = outputs.max(1, keepdims=True)
        partition = likely[:, 0] + np.log(np.exp(outputs - likely).sum(1))
        return partition - outputs[np.arange(len(targets)), targets]
    return (targets - outputs[:, 0]) ** 2 / 2 + math.log(2 * math.pi) / 2


@pytest.mark.parametrize("name", NAMES)
def test_script_is_deterministic_in_the_seed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, same, other = (small(name, monkeypatch, seed) for seed in (5, 5, 6))
    for split, examples in first.examples.items():
        assert np.array_equal(examples.inputs, same.examples[split].inputs)
        assert np.array_equal(examples.targets, same.examples[split].targets)
        assert not np.array_equal(examples.inputs, other.examples[split].inputs)
    for key, weight in first.module.state_dict().items():
        assert torch.equal(weight, same.module.state_dict()[key])
    # No row is in two splits.
    rows = [examples.inputs.reshape(-1, examples.inputs.shape[-1]) for examples in first.examples.values()]
    if name not in ("parity", "two-point"):  # where there are a few rows only
        together = np.concatenate(rows)
        assert len(np.unique(together, axis=0)) == len(together)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_examples_can_be_drawn_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = small(name, monkeypatch, 5)
    first, same, other = (small(name, monkeypatch, 5, evaluation_seed=seed) for seed in (0, 0, 1))
    for built in (first, other):
        for split in ("fit", "calibration"):
            assert np.array_equal(own.examples[split].inputs, built.examples[split].inputs)
        for key, weight in own.module.state_dict().items():
            assert torch.equal(weight, built.module.state_dict()[key])
    evaluation = [built.examples["evaluation"] for built in (own, first, other)]
    assert np.array_equal(evaluation[1].inputs, same.examples["evaluation"].inputs)
    windows = np.concatenate([examples.inputs for examples in evaluation])
    assert len(np.unique(windows, axis=0)) == len(windows)
    assert len({document for examples in evaluation for document in examples.documents}) == len(windows)


@pytest.mark.parametrize("name", NAMES)
def test_task_and_claims_fit_what_the_script_builds(name: str) -> None:
    # All widths have one script, and examples of the same shapes.
    built = load("width-16" if name.startswith("width") else name).built
    task = load_task(f"controls/{name}")
    for tier in task.tiers.values():
        assert tier.evaluation_windows <= len(built.examples["evaluation"].documents)
        assert tier.calibration_windows <= len(built.examples["calibration"].documents)
        assert tier.fit_windows <= len(built.examples["fit"].documents)
        assert tier.evaluation_windows >= 40
    for examples in built.examples.values():
        assert examples.inputs.dtype == np.float32
        assert examples.inputs.shape[:2] == examples.targets.shape
        assert len(set(examples.documents)) == len(examples.targets)
    inputs = built.examples["fit"].inputs[0]
    outputs, read = run(built.module, inputs, task.site.hook_in)
    _, replaced = run(built.module, inputs, task.site.hook_out)
    assert read.shape == replaced.shape == (len(inputs), task.site.width)
    assert np.isfinite(outputs).all()

    claims = claims_of(name)
    named = {name for claim in claims for name in claim.interpretation.split(JOINED)}
    assert named == set(built.interpretations)
    for interpretation in built.interpretations.values():
        x = torch.from_numpy(read).float()[None]
        assert interpretation.decode(interpretation.encode(x)).shape == x.shape
    wanted = needs(claim.quantity for claim in claims if JOINED not in claim.interpretation)
    assert set(wanted.rungs) <= {*KERNELS, "all"}
    # What moves a number is pinned: the data, and the formulas that the network is drawn with.
    assert {Path(file).name for file in task.build.files} - {"even.py", "build.py"} == {
        "data.py",
        "expected.py",
    }


def test_laws_figures_and_coverage_are_of_what_is_claimed() -> None:
    claimed, laws, figures = set(), {}, {}
    for name in NAMES:
        _, _, expected = scripts(name)
        for claim in claims_of(name):
            claimed.add((f"controls/{name}", claim.interpretation, claim.quantity.text))
        laws |= {law.name: law for law in read_laws(expected, name)}
        figure = read_figure(expected, name)
        if figure is not None:
            figures[figure.name] = figure
    assert set(laws) == {"1/n"}
    for law in laws.values():
        assert parse_quantity(law.quantity, law.name).kind == "shape"
        assert {(task, law.interpretation, law.quantity) for task in law.tasks} <= claimed
    assert set(figures) == {"width", "impurities", "gaussian-equivalence", "shape-and-dependence"}
    for figure in figures.values():
        assert set(figure.every_number()) <= claimed
    for name in NAMES:
        task, _, expected = scripts(name)
        if name.startswith("impurities"):
            studied = expected.coverage(**task.build.parameters)
            assert bool(studied) == (name in ("impurities-equal", "impurities-geometric"))
        else:
            studied = expected.coverage() if hasattr(expected, "coverage") else {}
        for interpretation, quantities in studied.items():
            assert {(f"controls/{name}", interpretation, quantity) for quantity in quantities} <= claimed


@pytest.mark.parametrize("name", ["gaussian-equivalence", "gaussian-equivalence-relu", "alignment"])
def test_network_of_random_features_is_the_one_that_the_formulas_draw(name: str) -> None:
    task, _, expected, built = load(name)
    network = expected.draw(expected.Parameters(seed=1, **task.build.parameters))
    x = built.examples["evaluation"].inputs[0]
    outputs, features = run(built.module, x, task.site.hook_out)
    preactivation = x.astype(np.float64) @ network.weights.T
    activation = np.tanh(preactivation) if name == "gaussian-equivalence" else np.maximum(preactivation, 0)
    assert features == pytest.approx(activation, abs=1e-5)
    centre = 0.0 if name == "gaussian-equivalence" else 1 / math.sqrt(2 * math.pi)
    assert outputs[:, -1] == pytest.approx((activation - centre) @ network.readout, abs=1e-4)
    # What the interpretation leaves out is uncorrelated with what it keeps.
    rows = built.examples["calibration"].inputs.reshape(-1, x.shape[1])[:16_384]
    _, read = run(built.module, rows, task.site.hook_in)
    _, replaced = run(built.module, rows, task.site.hook_out)
    linear = built.interpretations["linear"]
    estimate = linear.decode(linear.encode(torch.from_numpy(read))).numpy()
    residual = (replaced - estimate)[:, :20]
    products = (residual - residual.mean(0))[:, :, None] * (read[:, :20] - read[:, :20].mean(0))[:, None, :]
    worst = np.abs(products.mean(0)) / (products.std(0) / math.sqrt(len(rows)))
    assert worst.max() < 5
    if task.build.parameters.get("activation") is None:
        z = x.astype(np.float64) @ network.teacher
        noise = built.examples["evaluation"].targets[0] - z - (z**2 - 1) / math.sqrt(2)
        assert noise.var() == pytest.approx(0.1, rel=0.5)
    else:
        assert np.array_equal(built.examples["evaluation"].targets[0], x @ network.teacher > 0)


def test_linear_network_is_the_one_that_the_formulas_draw() -> None:
    task, _, expected, built = load("linear-gaussian")
    network = expected.draw(expected.Parameters(seed=1, **task.build.parameters))
    # Inputs 0 and unit vectors: the mean, and the product of the layers.
    unit = np.concatenate([np.zeros((1, 12)), np.eye(12)]).astype(np.float32)
    outputs, x = run(built.module, unit, "layers")
    assert x[0] == pytest.approx(network.mean, abs=1e-6)
    factor = (x[1:] - x[0]).T
    assert factor @ factor.T == pytest.approx(network.covariance, abs=1e-5)
    assert outputs[:, 1] - outputs[:, 0] == pytest.approx(x @ network.readout, abs=1e-5)
    subspace = built.interpretations["subspace"]
    assert subspace.basis.shape == (12, 4)
    assert (subspace.basis @ subspace.basis.T).numpy() == pytest.approx(network.projection, abs=1e-6)
    # Calibration inputs have mean 0 and covariance I, block by block, and are normal otherwise.
    z = built.examples["calibration"].inputs.reshape(4, -1, 12).astype(np.float64)
    for block in z:
        assert block.mean(0) == pytest.approx(np.zeros(12), abs=1e-6)
        assert block.T @ block / len(block) == pytest.approx(np.eye(12), abs=1e-6)
    assert stats.kstest(z[:, :, 0].ravel(), "norm").pvalue > 1e-4


SIMULATED = (
    ("gaussian-equivalence", "linear"),
    ("gaussian-equivalence-relu", "linear"),
    ("alignment", "linear"),
    ("impurities-equal", "keep-0"),
    ("impurities-equal", "keep-8"),
    ("impurities-geometric", "keep-4"),
    ("impurities-strict", "keep-12"),
    ("impurities-per-sample", "keep-1"),
    ("parity", "nothing"),
    ("two-point", "nothing"),
    ("linear-gaussian", "subspace"),
    ("width-16", "infinite-width"),
    ("shell-chain-1", "keep-2"),
    ("shell-chain-2", "keep-3"),
    ("quadratic-chaos", "keep-2"),
    ("quadratic-chaos", "keep-4"),
    ("mixture", "keep-4"),
    ("mixture", "keep-7"),
    ("bernoulli-gaussian", "threshold"),
    ("two-sites-1", "subspace"),
    ("two-sites-2", "subspace"),
    ("independent-residual", "noisy"),
    ("conditional-equivalence", "conditional"),
)


def rows_of(loaded: Loaded, split: str, interpretation: str) -> tuple[Array, Array, Array, Array]:
    """Inputs, targets, reconstruction and residual of each row of a split."""
    examples, site = loaded.built.examples[split], loaded.task.site
    inputs = examples.inputs.reshape(-1, examples.inputs.shape[-1])
    _, read = run(loaded.built.module, inputs, site.hook_in)
    _, replaced = run(loaded.built.module, inputs, site.hook_out)
    chosen = loaded.built.interpretations[interpretation]
    estimate = chosen.decode(chosen.encode(torch.from_numpy(read).float()[None]))[0].double().numpy()
    return inputs, examples.targets.ravel(), estimate, replaced - estimate


@pytest.mark.parametrize(("name", "interpretation"), SIMULATED)
def test_rungs_simulated_by_hand_are_what_is_claimed(name: str, interpretation: str) -> None:
    loaded = load(name)
    _, _, _, known = rows_of(loaded, "calibration", interpretation)
    inputs, targets, estimate, residual = rows_of(loaded, "evaluation", interpretation)
    generator = np.random.default_rng(7)
    mean = known.mean(0)
    values, vectors = np.linalg.eigh(np.cov(known.T).reshape(len(mean), len(mean)))
    factor = vectors * np.sqrt(np.maximum(values, 0))
    epsilons = {
        "clean": residual,
        "raw": np.zeros_like(residual),
        "mean": np.broadcast_to(mean, residual.shape),
        "full": mean + generator.standard_normal(residual.shape) @ factor.T,
        "permuted": known[generator.integers(0, len(known), len(residual))],
    }
    found, wrong = {}, {}
    for rung, epsilon in epsilons.items():
        outputs, _ = run(loaded.built.module, inputs, loaded.task.site.hook_out, estimate + epsilon)
        found[rung] = losses(outputs, targets)
        if targets.dtype == np.int64:
            wrong[rung] = (outputs.argmax(1) != targets).astype(float)
    checked = []
    for claim in claims_of(name):
        rung, kind = claim.quantity.rung, claim.quantity.kind
        if claim.interpretation != interpretation or kind not in ("loss", "error", "gap", "shape"):
            continue
        if kind == "shape":
            samples = found["full"] - found["permuted"]
        elif rung in found:
            samples = {"loss": found, "error": wrong, "gap": found}[kind][rung]
            samples = samples - found["clean"] if kind == "gap" else samples
        else:
            continue
        # A little more for the finite calibration, whose error is at most 0.3 of the rest.
        allowed = 1.05 * SIGMAS * samples.std() / math.sqrt(len(samples)) + claim.allowance + 1e-6
        assert abs(samples.mean() - claim.expected) <= allowed, (claim, samples.mean(), allowed)
        checked.append(claim.quantity.text)
    assert len(checked) >= 5


def test_kept_features_are_the_largest() -> None:
    loaded = load("impurities-per-sample")
    x = loaded.built.examples["evaluation"].inputs[:20]
    keep = loaded.built.interpretations["keep-2"]
    kept = keep.decode(keep.encode(torch.from_numpy(x))).numpy()
    largest = np.sort(x[..., :12], axis=-1)[..., -2:].sum(-1)
    assert kept.sum(-1) == pytest.approx(largest, abs=1e-6)
    assert ((kept == x) | (kept == 0)).all()
    assert (kept[..., 12] == 0).all()


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_chain_of_sums_of_squares_is_a_network(activation: str) -> None:
    """Against networks whose every weight is drawn."""
    generator = np.random.default_rng(3)
    width, layers, count = 6, 4, 6000
    z = generator.standard_normal((count, width))
    constant = {"linear": 1.0, "relu": 2.0}[activation]
    for _ in range(layers - 1):
        weights = math.sqrt(constant / width) * generator.standard_normal((count, width, width))
        active = np.maximum(z, 0) if activation == "relu" else z
        z = np.einsum("nij,nj->ni", weights, active)
    chain = load("width-16").script.last_layer(generator, activation, width, layers, 60_000)
    assert (chain != 0).mean() == pytest.approx((z[:, 0] != 0).mean(), abs=0.02)
    assert stats.ks_2samp(z[:, 0], chain).pvalue > 1e-4


def test_readout_of_width_is_softplus_without_its_odd_part() -> None:
    readout = load("width-16").built.module
    z = np.random.default_rng(4).normal(size=(50, 64)).astype(np.float32)
    outputs, _ = run(readout, z, "preactivation")
    softplus = np.logaddexp(0, z.astype(np.float64))
    assert losses(outputs, np.ones(50, np.int64)) == pytest.approx((softplus - z / 2).mean(1), abs=1e-6)


def test_stratified_calibration_has_the_law_of_independent_rows() -> None:
    script = load("impurities-geometric").script
    parameters = script.expected.Parameters(law="geometric")
    count = 65_536
    features, normal = script.stratified(np.random.default_rng(5), parameters, count)
    active = features > 0
    states, seen = np.unique(active @ (1 << np.arange(12)), return_counts=True)
    chances = 0.1 ** np.array([bin(s).count("1") for s in states])
    chances *= 0.9 ** np.array([12 - bin(s).count("1") for s in states])
    # One rounding a state; independent rows would be off by the root of what is expected, 136 for the first.
    assert np.abs(seen - count * chances).max() <= 1
    assert stats.kstest(normal, "norm").statistic < 5 / count
    # Features and background are independent: moments of each state's background.
    assert normal[~active.any(1)].std() == pytest.approx(1, abs=0.01)
    for index in range(12):
        assert normal[active[:, index]].mean() == pytest.approx(0, abs=0.01)
    # Each row alone has the right law: over seeds, the first row is active as often as it should be.
    first = [script.stratified(np.random.default_rng(seed), parameters, 50)[0][0] > 0 for seed in range(400)]
    assert np.mean(first) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 4800))
    assert np.mean(np.abs(normal) > 1.96) == pytest.approx(0.05, abs=1e-3)
