"""Bits per token against scipy, brute force and Shannon's closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import StandardSAE, StandardSAEConfig
from scipy import linalg, stats

from remainder.interpretation.protocol import Adapted, adapt
from remainder.interpretation.references import Identity, Projection, mean_only
from remainder.measure import complexity
from remainder.measure.complexity import CodeSample, affine_decoder, entropy_bits, quantisation_step
from remainder.residual.moments import Moments

CPU = torch.device("cpu")


class Linear:
    """A decoder of given rows and offset; codes are what the test says they are."""

    def __init__(self, rows: torch.Tensor, offset: torch.Tensor) -> None:
        self.rows, self.offset = rows, offset

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu((x - self.offset) @ self.rows.T)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.rows + self.offset


def bits_per_token(
    sample: CodeSample, interpretation: Adapted, device: torch.device
) -> tuple[float | None, str]:
    """Both steps: find the decoder, then count."""
    return complexity.bits_per_token(sample, affine_decoder(sample, interpretation, device))


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sample_of(codes: torch.Tensor, x: torch.Tensor, size: int = 1000) -> CodeSample:
    sample = CodeSample()
    for part, rows in zip(codes.split(size), x.split(size), strict=True):
        sample.update(part, rows)
    return sample


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 5))
def test_entropy_equals_scipy(seed: int, tokens: int, features: int) -> None:
    generator = np.random.default_rng(seed)
    bins = generator.integers(-3, 4, (tokens, features))
    active = generator.random((tokens, features)) < 0.6
    expected = 0.0
    for j in range(features):
        # An active code in bin 0 is not the same as a silent one.
        symbols = [(bool(on), int(bins[t, j]) if on else 0) for t, on in enumerate(active[:, j])]
        counts = [symbols.count(symbol) for symbol in set(symbols)]
        expected += stats.entropy(counts, base=2)
    assert entropy_bits(bins, active) == pytest.approx(expected, abs=1e-10)


def mse_at(step: float, x, base, contributions, units) -> float:
    """The MSE with contributions quantised at `step`; unquantised at 0."""
    values = contributions if step == 0 else np.rint(contributions / step) * step
    return float(((x - base - np.einsum("tj,jd->td", values, units)) ** 2).sum(1).mean())


@pytest.mark.parametrize(("noise", "tokens"), [(0.0, 20_000), (0.3, 400)])
def test_the_step_adds_what_is_allowed(noise: float, tokens: int) -> None:
    units = torch.nn.functional.normalize(gaussian(12, 5, seed=1), dim=-1)
    contributions = torch.relu(gaussian(tokens, 12, seed=2))
    base = gaussian(5, seed=3)
    x = base + contributions @ units + noise * gaussian(tokens, 5, seed=4)
    variance = float(x.var(0, correction=0).sum())
    step = quantisation_step(x, base, contributions, units, variance)
    arrays = [value.double().numpy() for value in (x, base, contributions, units)]
    mse = mse_at(0, *arrays)
    allowed = 0.01 * max(mse, 1e-3 * variance)
    assert (noise == 0) == (mse < 1e-3 * variance)  # both sides of the maximum are met
    assert mse_at(step, *arrays) - mse <= allowed * 1.001
    assert mse_at(step * 1.003, *arrays) - mse > allowed
    if noise == 0:  # else errors of few tokens are correlated with what was left anyway
        active = float((contributions != 0).sum(-1).double().mean())
        assert step == pytest.approx(math.sqrt(12 * allowed / active), rel=0.05)


def test_orthonormal_gaussian_codes_cost_their_shannon_entropy() -> None:
    """H = Σ h(c_j) − log₂ step with h = ½ log₂(2πe σ²), whose step adds k·step²/12 to the MSE."""
    width, rank, tokens = 6, 3, 150_000
    basis = torch.from_numpy(linalg.orth(gaussian(width, rank).numpy())).T.contiguous()
    scales = torch.tensor([1.0, 2.0, 0.5])
    # Length 4 of the decoder's rows: bits go by contributions, so that it must not matter.
    codes = gaussian(tokens, rank, seed=5) * scales / 4
    left = gaussian(tokens, width, seed=6)
    x = codes @ (4 * basis) + 0.5 * (left - left @ basis.T @ basis)
    interpretation = adapt(Linear(4 * basis, torch.zeros(width)), width)
    bits, note = bits_per_token(sample_of(codes, x, 10_000), interpretation, CPU)
    step = math.sqrt(12 * 0.01 * (0.25 * (width - rank)) / rank)
    expected = sum(0.5 * math.log2(2 * math.pi * math.e * float(s) ** 2) - math.log2(step) for s in scales)
    assert bits == pytest.approx(expected, abs=0.03 * rank)
    assert float(note.split()[1].rstrip(",")) == pytest.approx(step, rel=0.03)
    assert f"{tokens} tokens" in note


def test_sparse_codes_cost_their_gates_and_their_values() -> None:
    """A code that is active with probability q and then takes one of two values: H(q) + q bits.

    The lower value is far below the step, and still it is not silence.
    """
    generator = torch.Generator().manual_seed(0)
    q, tokens = 0.2, 100_000
    gates = torch.rand(tokens, 1, generator=generator) < q
    codes = gates * (1e-6 + 3.0 * torch.randint(2, (tokens, 1), generator=generator))
    x = codes * torch.tensor([[0.6, 0.8]])
    bits, _ = bits_per_token(
        sample_of(codes, x), adapt(Linear(torch.tensor([[0.6, 0.8]]), torch.zeros(2)), 2), CPU
    )
    assert bits == pytest.approx(stats.entropy([q, 1 - q], base=2) + q, abs=0.02)


def test_identity_costs_most_and_a_mean_nothing() -> None:
    x = gaussian(3000, 4) * torch.tensor([1.0, 1.0, 0.1, 3.0])
    moments = Moments.empty(4)
    moments.update(x)
    costs = {}
    for name, thing in {
        "identity": Identity(),
        "two": Projection(moments.mean.float(), torch.eye(4)[[0, 3]]),
        "mean": mean_only(moments),
    }.items():
        sample = sample_of(thing.encode(x[None])[0], x)
        costs[name], note = bits_per_token(sample, adapt(thing, 4), CPU)
        assert sample.features == sample.live_features == {"identity": 4, "two": 2, "mean": 0}[name]
    assert costs["mean"] == 0.0
    assert note == "no feature is ever active"
    assert costs["identity"] > 2 * costs["two"] > 0


def test_bits_are_in_contributions_not_in_codes() -> None:
    """Codes ×1000 and decoder /1000 is the same interpretation."""
    rows = gaussian(5, 4, seed=1)
    thing = Linear(rows, gaussian(4, seed=2))
    x = gaussian(4000, 4, seed=3)
    codes = thing.encode(x)
    once = bits_per_token(sample_of(codes, x), adapt(thing, 4), CPU)
    scaled = bits_per_token(sample_of(1000 * codes, x), adapt(Linear(rows / 1000, thing.offset), 4), CPU)
    assert once[0] is not None
    assert scaled[0] == pytest.approx(once[0], rel=1e-3)


def test_no_bits_come_with_their_reason() -> None:
    x = gaussian(300, 4)

    class Squares(Identity):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes**2

    bits, reason = bits_per_token(sample_of(x, x), adapt(Squares(), 4), CPU)
    assert bits is None
    assert "not affine" in reason
    assert bits_per_token(CodeSample(), adapt(Identity(), 4), CPU) == (None, "no calibration token was seen")


def test_a_decoder_that_needs_its_encoder_has_no_bits() -> None:
    sae = StandardSAE(StandardSAEConfig(d_in=4, d_sae=9, normalize_activations="layer_norm"))
    sae.requires_grad_(False)
    interpretation, x = adapt(sae, 4), gaussian(2, 50, 4)
    codes, _ = interpretation.reconstruct(x, torch.ones(2, 50).bool())
    bits, reason = bits_per_token(sample_of(codes.flatten(0, 1), x.flatten(0, 1)), interpretation, CPU)
    assert bits is None
    assert "cannot be decoded by themselves" in reason


def test_a_sample_keeps_what_fits_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complexity, "_MAX_ENTRIES", 100)
    codes = torch.zeros(60, 3)
    codes[:4, 0] = 1.0  # in the first batch only
    codes[59, 2] = 1.0  # seen only beyond what is kept
    sample = sample_of(codes, gaussian(60, 4), size=8)
    assert (sample.tokens, sample.seen, sample.features, sample.live_features) == (33, 60, 3, 2)
    assert torch.equal(torch.cat(sample.codes), codes[:33])
    assert torch.equal(torch.cat(sample.x), gaussian(60, 4)[:33])
    assert sample.live is not None
    assert sample.live.tolist() == [True, False, True]
