"""Codes that are paid for: steps, points, what is counted and what is spliced in; decoders of all kinds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from remainder.interpretation.protocol import adapt
from remainder.interpretation.references import Codebook, Identity, mean_only, principal_components
from remainder.measure.code_tables import fit_tables
from remainder.measure.codes import Codes, CodeSample, Look
from remainder.measure.coding import CodedBatch, Coder, fit_coder
from remainder.measure.decoders import affine_decoder
from remainder.record.rungs import CODED, CURVE, STEPS
from remainder.residual.moments import Moments

CPU = torch.device("cpu")
WIDTH, WINDOWS, POSITIONS = 6, 40, 25


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Linear:
    """A sparse code with a decoder of given rows and offset."""

    def __init__(self, features: int = 12, offset: float = 0.0, scale: float = 1.0, seed: int = 1) -> None:
        rows = torch.nn.functional.normalize(normal(features, WIDTH, seed=seed), dim=-1)
        self.encoder, self.rows = rows * scale, rows / scale
        self.offset, self.bias = torch.full((WIDTH,), offset), 0.5 * scale

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.encoder.T - self.bias)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return 0.6 * codes @ self.rows + self.offset


class Bent(Linear):
    """The same, its decoder followed by a bend."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.tanh(super().decode(codes))


def data(seed: int = 0, width: int = WIDTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations of windows, and where they are spliced."""
    x = normal(WINDOWS, POSITIONS, width, seed=seed) * torch.linspace(2, 0.3, width)
    spliced = torch.rand(WINDOWS, POSITIONS, generator=torch.Generator().manual_seed(seed)) < 0.9
    return x, spliced


def sample_of(thing: Any, x: torch.Tensor, spliced: torch.Tensor, size: int = 7) -> CodeSample:
    interpretation, sample = adapt(thing, x.shape[-1]), CodeSample()
    for part, here in zip(x.split(size), spliced.split(size), strict=True):
        codes, decoded = interpretation.reconstruct(part, here)
        sample.update(codes[here], part[here], (part - decoded)[here], here)
    return sample


def coder_of(thing: Any, x: torch.Tensor | None = None, spliced: torch.Tensor | None = None) -> Coder:
    if x is None or spliced is None:
        x, spliced = data()
    coder = fit_coder(sample_of(thing, x, spliced), adapt(thing, x.shape[-1]), CPU)
    assert isinstance(coder, Coder), coder
    return coder


def batch_of(coder: Coder, x: torch.Tensor, spliced: torch.Tensor) -> CodedBatch:
    return CodedBatch(coder, coder.interpretation.encode(x), x, spliced)


def components(x: torch.Tensor, spliced: torch.Tensor, rank: int = WIDTH) -> Any:
    return principal_components(Moments.of(x[spliced]), rank)


@pytest.mark.parametrize("thing", [Linear(), Linear(offset=0.3), Linear(scale=1000.0), Bent()])
def test_points_follow_the_median_of_squared_errors(thing: Any) -> None:
    """By brute force: quantise, decode windows, take the median of centred squares."""
    x, spliced = data()
    coder = coder_of(thing, x, spliced)
    variance = float((x[spliced] - x[spliced].mean(0)).double().square().sum(-1).mean())
    codes = torch.where(spliced[..., None], thing.encode(x), 0.0).double()
    if isinstance(thing, Bent):
        unit = 1 / codes[spliced].std(0, correction=0)
        assert coder.unit == "sd"
        assert coder.rms == pytest.approx(math.sqrt(12))
    else:
        unit = 0.6 * thing.rows.double().norm(dim=-1)
        assert coder.unit == "contribution"
        assert coder.rms == pytest.approx(math.sqrt(variance), rel=1e-5)

    def error(codes: torch.Tensor) -> float:
        left = (x - thing.decode(codes.float()))[spliced].double().numpy()
        return float(np.median(((left - left.mean(0)) ** 2).sum(1)))

    exact = error(codes)
    added = []
    for number in range(STEPS):
        step = coder.rms * 2 ** (-number / 2)
        added.append(
            (error(torch.round(codes * unit / step) * step / unit) - exact) / max(exact, 1e-3 * variance)
        )
    coarser, there = STEPS, []
    for name, target in CURVE.items():
        if not coarser:
            break
        there.append(name)
        coarser = min(range(coarser), key=lambda number: abs(added[number] - target))
        assert coder.points[name] == coarser
        assert coder.added[name] == pytest.approx(added[coarser], rel=1e-2, abs=1e-3)
    assert list(coder.points) == there


def test_scale_and_offset_of_an_affine_decoder_move_nothing() -> None:
    x, spliced = data()
    coders = [coder_of(thing, x, spliced) for thing in (Linear(), Linear(scale=256.0), Linear(offset=100.0))]
    assert len({tuple(coder.points.items()) for coder in coders}) == 1
    found = [sum(batch_of(coder, x, spliced).bits(8)) for coder in coders]
    assert found[1:] == [pytest.approx(found[0], rel=1e-3)] * 2


def test_one_planted_token_moves_no_step() -> None:
    x, spliced = data()
    planted = x.clone()
    planted[0, int(spliced[0].nonzero()[0])] = 300.0
    thing = Linear()
    honest, other = coder_of(thing, x, spliced), coder_of(thing, planted, spliced)
    # The variance that sets the coarsest step is the task's own; in numbers of the task no step is moved.
    for name in CURVE:
        ratio = other.step(other.points[name]) / honest.step(honest.points[name])
        assert 0.6 < ratio < 1.7


@pytest.mark.parametrize("thing", [Linear(), Bent()])
def test_bits_are_of_the_very_codes_that_are_spliced(thing: Any) -> None:
    """Counted anew from what `decode` was given when the reconstruction was made."""
    x, spliced = data(seed=3)
    coder = coder_of(thing)
    given = []
    kept = thing.decode

    class Watched(type(thing)):  # type: ignore[misc]
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            given.append(codes.clone())
            return kept(codes)

    watched = Watched()
    watched.__dict__.update(thing.__dict__)
    coder.interpretation = adapt(watched, WIDTH)
    coded = batch_of(coder, x, spliced)
    for number in coder.points.values():
        given.clear()
        reconstruction = coded.reconstruction(number)
        (codes,) = given
        assert not codes[~spliced].any()
        torch.testing.assert_close(reconstruction, thing.decode(codes))
        used = Codes.of(codes[spliced])
        contribution = used.value.double() * coder.scales(used)
        symbols = torch.round(contribution / coder.step(number))
        torch.testing.assert_close(symbols * coder.step(number), contribution, rtol=1e-5, atol=0)
        table = coder.tables[number]
        total = int(spliced.sum()) * table.off + float(table.bits(used.latent, symbols).sum())
        assert sum(coded.bits(number)) == pytest.approx(total, rel=1e-9)
        squares = (x - reconstruction)[spliced].double().square().sum()
        assert sum(coded.squares(number)) == pytest.approx(float(squares), rel=1e-4)


def test_windows_have_their_own_bits_whatever_the_batch() -> None:
    x, spliced = data(seed=4)
    coder = coder_of(Linear())
    together, order = batch_of(coder, x, spliced), torch.randperm(WINDOWS, generator=torch.Generator())
    shuffled = batch_of(coder, x[order], spliced[order])
    for number in range(STEPS):
        alone = [batch_of(coder, x[i : i + 1], spliced[i : i + 1]).bits(number)[0] for i in range(3)]
        assert together.bits(number)[:3] == pytest.approx(alone, rel=1e-12)
        np.testing.assert_allclose(np.array(together.bits(number))[order], shuffled.bits(number), rtol=1e-12)
        np.testing.assert_allclose(
            np.array(together.squares(number))[order], shuffled.squares(number), rtol=1e-5
        )


def test_batches_of_calibration_change_nothing() -> None:
    x, spliced = data()
    interpretation = adapt(Linear(), WIDTH)
    found = [
        fit_coder(sample_of(Linear(), x, spliced, size), interpretation, CPU) for size in (1, 7, WINDOWS)
    ]
    first = found[0]
    assert isinstance(first, Coder)
    for other in found[1:]:
        assert isinstance(other, Coder)
        assert other.points == first.points
        assert batch_of(other, x, spliced).bits(7) == pytest.approx(
            batch_of(first, x, spliced).bits(7), rel=1e-6
        )


def test_kept_tokens_do_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    x, spliced = data()
    monkeypatch.setattr("remainder.measure.codes._MOST_ENTRIES", 500)
    samples = [sample_of(Linear(), x, spliced, size) for size in (1, 7, WINDOWS)]
    assert len({sample.tokens for sample in samples}) == 1
    first = Codes.joined(list(samples[0].everything()))
    assert 450 < len(first.value) <= 500
    for sample in samples:
        torch.testing.assert_close(Codes.joined(list(sample.everything())).value, first.value)
        assert sum(int(look.spliced.sum()) for look in sample.windows()) == sample.tokens == sample.kept
        assert sample.seen == int(spliced.sum())


@pytest.mark.parametrize("thing", [Linear(), Bent()])
def test_codes_that_do_not_fit_are_made_anew_and_change_nothing(
    thing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables, steps and sets of codes that were never together in memory, against those that were."""
    x, spliced = data()
    interpretation = adapt(thing, WIDTH)
    whole = coder_of(thing, x, spliced)
    kept = whole.sets_of(sample_of(thing, x, spliced), CODED)
    monkeypatch.setattr("remainder.measure.codes._MOST_ENTRIES", 500)
    monkeypatch.setattr("remainder.measure.codes._PART", 200)
    monkeypatch.setattr("remainder.measure.coding.FIRST", 10_000)
    monkeypatch.setattr("remainder.measure.codes.FIRST", 10_000)

    def looks() -> Iterator[Look]:
        for part, here in zip(x.split(7), spliced.split(7), strict=True):
            yield Look(Codes.of(interpretation.encode(part)[here]), part[here], here)

    sample = sample_of(thing, x, spliced)
    sample.again = looks
    assert sample.kept < sample.tokens == sample.seen
    found = fit_coder(sample, interpretation, CPU)
    assert isinstance(found, Coder)
    assert (found.unit, found.points) == (whole.unit, whole.points)
    assert found.added == pytest.approx(whole.added, rel=1e-9)
    assert (found.sets_of(sample, CODED) == kept).all()
    for number, table in whole.tables.items():
        other = found.tables[number]
        torch.testing.assert_close(other.rate, table.rate, rtol=1e-12, atol=0)
        for mine, theirs in zip(other.laws, table.laws, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_matrix_of_a_decoder_is_believed_only_where_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One factor may stand before it; a wrong row is found, and all latents are probed instead."""
    x, spliced = data()
    thing = Linear(features=40, offset=2.0)
    probed = affine_decoder(sample_of(thing, x, spliced), adapt(thing, WIDTH), CPU)
    assert not isinstance(probed, str)
    rows = []
    kept = thing.decode
    thing.decode = lambda codes: (rows.append(codes.shape[1]), kept(codes))[1]  # type: ignore[method-assign]
    for wrong in (False, True):
        thing.W_dec = thing.rows.clone()  # type: ignore[attr-defined]
        if wrong:
            thing.W_dec[3] *= 1.01  # type: ignore[attr-defined]
        rows.clear()
        found = affine_decoder(sample_of(thing, x, spliced), adapt(thing, WIDTH), CPU)
        assert not isinstance(found, str)
        assert (len(found.directions) in rows) == wrong
        torch.testing.assert_close(found.directions, probed.directions, rtol=1e-4, atol=1e-5)


def test_a_million_latents_take_memory_for_a_few_numbers_each() -> None:
    """Sparse codes of 2²⁰ latents: as many bits as of the few that are ever on, and no table of tokens."""
    tokens, on, features = 3000, 16, 2**20
    places = torch.randint(2000, (tokens, on), generator=torch.Generator().manual_seed(0))
    values = normal(tokens * on).exp()
    few = Codes(torch.arange(tokens).repeat_interleave(on), places.flatten(), values, tokens, 2000)
    many = few._replace(latent=few.latent * 500, features=features)
    steps = [1.0, 0.3]
    for one, other in zip(fit_tables(lambda: [few], steps), fit_tables(lambda: [many], steps), strict=True):
        symbol = torch.round(few.value.double() / one.step)
        kept = symbol != 0
        mine = one.bits(few.latent[kept], symbol[kept])
        torch.testing.assert_close(other.bits(many.latent[kept], symbol[kept]), mine, rtol=1e-9, atol=1e-9)
        assert 0 <= other.off - one.off < 1e-3


class Picked:
    """A codebook: a latent is 1 where its codeword is the nearest; decoded by a table, or a small network."""

    def __init__(self, rows: torch.Tensor, *, bent: bool) -> None:
        self.rows, self.bent = rows, bent
        self.inner = normal(len(rows), 16, seed=3) - 0.2
        self.outer = normal(16, rows.shape[1], seed=4)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        nearest = (x[..., None, :] - self.rows).square().sum(-1).argmin(-1)
        return torch.nn.functional.one_hot(nearest, len(self.rows)).float()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        more = torch.relu(codes @ self.inner - 0.5) @ self.outer if self.bent else 0.0
        return codes @ self.rows + more


@pytest.mark.parametrize("bent", [False, True])
def test_codes_of_one_size_do_not_hide_a_bent_decoder(bent: bool) -> None:
    """Rounded codes are of other sizes, and what they are decoded to is what is counted and spliced in."""
    x, spliced = data()
    thing = Picked(x[spliced][:24], bent=bent)
    coder = coder_of(thing, x, spliced)
    assert (coder.decoder is None, coder.unit) == (bent, "sd" if bent else "contribution")
    codes, number = thing.encode(x), coder.points[CODED]
    batch = CodedBatch(coder, codes, x, spliced)
    left = (x - batch.reconstruction(number))[spliced].double().square().sum()
    assert sum(batch.squares(number)) == pytest.approx(float(left), rel=1e-5)


def test_a_latent_that_calibration_never_saw_is_probed_when_it_fires() -> None:
    x, spliced = data()

    class Late(Linear):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            codes = super().encode(x.clamp(max=50))
            return torch.cat([codes, (x[..., :1] > 50) * x[..., :1]], -1)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            more = torch.zeros(*codes.shape[:-1], WIDTH)
            more[..., 0] = 2 * codes[..., -1]
            return super().decode(codes[..., :-1]) + more

    coder = coder_of(Late(), x, spliced)
    assert coder.silent == 1
    other = x.clone()
    other[0, 0, 0] = 60.0
    spliced[0, 0] = True
    coded = batch_of(coder, other, spliced)
    latest = Codes.of(Late().encode(other)[spliced])
    assert (coder.scales(latest)[latest.latent == 12] - 2.0).abs().max() < 1e-5
    number = coder.points[CODED]
    squares = (other - coded.reconstruction(number))[spliced].double().square().sum()
    assert sum(coded.squares(number)) == pytest.approx(float(squares), rel=1e-4)
    assert math.isfinite(coded.bits(number)[0])


def test_a_mean_costs_nothing_and_has_one_point() -> None:
    x, spliced = data()
    coder = coder_of(mean_only(Moments.of(x[spliced])), x, spliced)
    assert coder.points == {CODED: 0}
    coded = batch_of(coder, x, spliced)
    assert coded.bits(0) == [0.0] * WINDOWS
    torch.testing.assert_close(coded.reconstruction(0)[0, 0], x[spliced].mean(0))


def test_an_identity_is_quantised_like_anything_else() -> None:
    x, spliced = data()
    coder = coder_of(Identity(), x, spliced)
    assert list(coder.points) == list(CURVE)
    assert coder.points[CODED] == STEPS - 1
    coded = batch_of(coder, x, spliced)
    assert sum(coded.bits(STEPS - 1)) > sum(coded.bits(4)) > 0
    # Independent rounding errors of uniform law.
    expected = WIDTH * coder.step(STEPS - 1) ** 2 / 12 * int(spliced.sum())
    assert sum(coded.squares(STEPS - 1)) == pytest.approx(expected, rel=0.05)


def test_one_hot_codes_cost_their_index_and_no_more() -> None:
    x, spliced = data()
    entries = 16
    coder = coder_of(Codebook(x[spliced][:entries].clone()), x, spliced)
    found = sum(batch_of(coder, x, spliced).bits(coder.points[CODED])) / int(spliced.sum())
    assert 2.5 < found < math.log2(entries) + math.log2(math.e) + 0.3


@pytest.mark.parametrize("features", [0, 5])
def test_codes_that_are_all_zero(features: int) -> None:
    class Silent(Linear):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*x.shape[:-1], features)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*codes.shape[:-1], WIDTH)

    x, spliced = data()
    coder = coder_of(Silent(), x, spliced)
    assert coder.points == {CODED: 0}
    assert sum(batch_of(coder, x, spliced).bits(0)) / int(spliced.sum()) == pytest.approx(0, abs=1e-3)


def test_principal_components_cost_about_a_gaussian_of_their_variance() -> None:
    x, spliced = data()
    coder = coder_of(components(x, spliced), x, spliced)
    other, where = data(seed=9)
    number = 10
    found = sum(batch_of(coder, other, where).bits(number)) / int(where.sum())
    deviations = Moments.of(x[spliced]).covariance.diagonal().sqrt()
    expected = sum(
        0.5 * math.log2(2 * math.pi * math.e * float(s) ** 2 / coder.step(number) ** 2) for s in deviations
    )
    assert found == pytest.approx(expected, rel=0.03)


def test_what_goes_past_the_codes_has_no_bits() -> None:
    x, spliced = data()
    sample = sample_of(Linear(), x, spliced)
    sample.past = True
    found = fit_coder(sample, adapt(Linear(), WIDTH), CPU)
    assert isinstance(found, str)
    assert "past the codes" in found


def test_a_decoder_that_refuses_rounded_codes_has_no_bits() -> None:
    x, spliced = data()
    thing = Bent()
    seen = {float(value) for value in thing.encode(x).flatten()}

    class Picky(Bent):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            if codes.shape[1] == POSITIONS and any(float(value) not in seen for value in codes.flatten()):
                raise KeyError("unknown code")
            return super().decode(codes)

    found = fit_coder(sample_of(Picky(), x, spliced), adapt(Picky(), WIDTH), CPU)
    assert isinstance(found, str)
    assert "quantised codes cannot be decoded" in found


def test_an_affine_decoder_is_found_beside_a_large_offset() -> None:
    x, spliced = data()
    thing = Linear(offset=3e4)
    found = affine_decoder(sample_of(thing, x, spliced), adapt(thing, WIDTH), CPU)
    # Rounding of the sums in float32 is all that is left to be told from a bend.
    assert isinstance(found, str) or torch.allclose(found.directions, 0.6 * thing.rows, atol=0.05)


def test_dense_and_sparse_arithmetic_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, spliced = data()
    thing = Linear(features=300)
    decoder = affine_decoder(sample_of(thing, x, spliced), adapt(thing, WIDTH), CPU)
    assert not isinstance(decoder, str)
    codes = Codes.of(thing.encode(x)[spliced])
    found = []
    for share in (0.0, 2.0):
        monkeypatch.setattr("remainder.measure.decoders._DENSE", share)
        found.append(decoder.decode(codes))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found[0] + decoder.base, thing.decode(thing.encode(x))[spliced], rtol=1e-3, atol=1e-4
    )
