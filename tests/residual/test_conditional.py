"""Conditional kernels against closed forms, scikit-learn, and laws whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import NearestNeighbors

from remainder.record.rungs import RUNGS, SAMPLERS
from remainder.residual import ridge as ridge_module
from remainder.residual import rows as rows_module
from remainder.residual.calibration import Calibration
from remainder.residual.cluster import fit_cell_gaussians
from remainder.residual.codes import Codes
from remainder.residual.conditional import CodeDesign
from remainder.residual.covariance import NotMeasurableError, fit_covariance
from remainder.residual.held_out import conditional_figures, gaussian_surprise, surprise
from remainder.residual.kernel import Context
from remainder.residual.ladder import prepare
from remainder.residual.moments import Moments
from remainder.residual.neighbour import Neighbours
from remainder.residual.noise import Draw, NoiseKeys
from remainder.residual.ridge import fit_ridge
from remainder.residual.rows import Rows, Seen

D, FEATURES, DOCUMENTS, POSITIONS = 3, 5, 120, 20
CONDITIONAL = [name for name, rung in RUNGS.items() if rung.keeps]


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keys(documents: int, prefix: str = "page") -> NoiseKeys:
    return NoiseKeys(3, tuple(f"{prefix}-{i}" for i in range(documents)), (0,) * documents)


def codes_at(seed: int, documents: int = DOCUMENTS) -> torch.Tensor:
    """Codes that are off half of the time."""
    return gaussian(documents, POSITIONS, FEATURES, seed=seed).clamp(min=0)


def kept(
    x: torch.Tensor,
    r: torch.Tensor,
    codes: torch.Tensor | None = None,
    tokens: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    batch: int = 7,
) -> Calibration:
    """A calibration with all rows, given in batches."""
    calibration = Calibration.empty(x.shape[-1], keep=True)
    mask = torch.ones(x.shape[:2]).bool() if mask is None else mask
    names = keys(len(x))
    for start in range(0, len(x), batch):
        own = slice(start, start + batch)
        places = NoiseKeys(3, names.documents[own], names.windows[own])
        sparse = None if codes is None else Codes.of(codes[own][mask[own]])
        calibration.update(places, x[own], r[own], mask[own], sparse, None if tokens is None else tokens[own])
    return calibration


def context(
    x: torch.Tensor, codes: torch.Tensor | None = None, tokens: torch.Tensor | None = None
) -> Context:
    mask = torch.ones(x.shape[:2]).bool()
    sparse = None if codes is None else Codes.of(codes[mask])
    return Context(keys(len(x), "evaluation"), x, mask, codes=sparse, tokens=tokens)


MIX = gaussian(FEATURES, D, seed=50)
ON = gaussian(FEATURES, D, seed=51)


def told(codes: torch.Tensor) -> torch.Tensor:
    """The part of the residual that codes tell: by their value, and by being on."""
    return codes @ MIX + (codes > 0).double() @ ON + 2.0


# --------------------------------------------------------------------------------------- rows


def test_rows_come_back_as_they_went_in_whatever_the_batches() -> None:
    x, r, codes = gaussian(9, 6, D, seed=1), gaussian(9, 6, D, seed=2), codes_at(3)[:9, :6]
    mask, tokens = gaussian(9, 6, seed=4) < 1, torch.arange(54).reshape(9, 6)
    orders = []
    for batch in (1, 4, 9):
        rows = kept(x, r, codes, tokens, mask, batch).rows
        assert rows is not None
        order = rows.order()
        some = rows.some(order)
        place = [int(rows.windows[i][0].removeprefix("page-")) for i in order]
        orders.append(place)
        assert torch.equal(some.seen.mask, mask[place])
        assert torch.equal(some.rows, r[place][mask[place]].float())
        assert torch.equal(some.seen.reconstruction[mask[place]], x[place][mask[place]].float())
        assert torch.equal(some.seen.tokens, tokens[place])
        given, wanted = some.seen.codes, Codes.of(codes[place][mask[place]])
        assert given is not None
        for found, expected in zip(given[:3], wanted[:3], strict=True):
            torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-7)
        assert sorted(i for fold in range(3) for i in rows.order(fold)) == sorted(order)
        for fold in range(3):
            expected = torch.cat([rows.some([i]).rows for i in rows.order(without=fold)]).double().mean(0)
            torch.testing.assert_close(rows.mean(fold), expected, rtol=1e-6, atol=1e-7)
    assert orders[0] == orders[1] == orders[2]


def test_merging_rows_is_seeing_all_of_them() -> None:
    x, r, codes = gaussian(9, 6, D, seed=1), gaussian(9, 6, D, seed=2), codes_at(3)[:9, :6]
    whole = kept(x, r, codes)
    left, right = Calibration.empty(D, keep=True), Calibration.empty(D, keep=True)
    mask = torch.ones(9, 6).bool()
    for part, own in ((left, slice(0, 5)), (right, slice(5, 9))):
        places = NoiseKeys(3, keys(9).documents[own], keys(9).windows[own])
        part.update(places, x[own], r[own], mask[own], Codes.of(codes[own][mask[own]]))
    left.merge(right)
    assert whole.rows is not None
    assert left.rows is not None
    first, second = whole.rows.some(whole.rows.order()), left.rows.some(left.rows.order())
    assert torch.equal(first.rows, second.rows)
    assert first.seen.codes is not None
    assert second.seen.codes is not None
    assert torch.equal(first.seen.codes.value, second.seen.codes.value)


# -------------------------------------------------------------------------------------- ridge


def _rows(calibration: Calibration) -> Rows:
    assert calibration.rows is not None
    return calibration.rows


@pytest.mark.parametrize("direct", [8192, 0])
def test_ridge_is_that_of_scikit_learn(direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the normal equations, and by conjugate gradients."""
    monkeypatch.setattr(ridge_module, "DIRECT", direct)
    monkeypatch.setattr(ridge_module, "_TOLERANCE", 1e-12)
    codes = codes_at(1)
    rows = _rows(kept(gaussian(DOCUMENTS, POSITIONS, D, seed=2), told(codes), codes))
    order = rows.order()
    design = CodeDesign.of(rows, order)
    (found,) = fit_ridge(rows, order, design, lambda some: some.rows.double().numpy(), [37.0])
    some = rows.some(order)
    columns = design.matrix(some.seen).toarray()
    peer = SklearnRidge(alpha=37.0).fit(columns, some.rows.double().numpy())
    np.testing.assert_allclose(found.values(some.seen), peer.predict(columns), rtol=1e-6, atol=1e-6)


def test_columns_are_value_and_switch_of_what_varies() -> None:
    codes = codes_at(1)
    codes[..., 1] = 3.0  # always on, and constant: no column
    codes[..., 2] = 1.0 + codes[..., 2]  # always on: a value, no switch
    codes[..., 3] = (codes[..., 3] > 0).double()  # a switch, whose value says the same
    codes[..., 4] = 0.0  # never on
    rows = _rows(kept(gaussian(DOCUMENTS, POSITIONS, D, seed=2), told(codes), codes))
    design = CodeDesign.of(rows, rows.order())
    assert design.place.tolist() == [0, -1, 1, 2, -1]
    assert design.switch.tolist() == [3, -1, -1, 4, -1]
    assert design.columns == 5


# --------------------------------------------------------------------------------- samplers


def test_renormalised_finds_all_that_codes_tell_and_the_noise_around_it() -> None:
    codes, noise = codes_at(1), 0.5 * gaussian(DOCUMENTS, POSITIONS, D, seed=2)
    r = told(codes) + noise
    calibration = kept(gaussian(DOCUMENTS, POSITIONS, D, seed=3), r, codes)
    fresh = codes_at(9, 4)
    given = context(gaussian(4, POSITIONS, D, seed=8), fresh)
    mean = prepare(RUNGS["renormalised-mean"], calibration).sample(given, Draw(0))
    # 2,400 rows for 11 columns: a standard error of about .5·√(11/2400) = .03 a prediction.
    assert float((mean - told(fresh)).square().mean().sqrt()) < 0.06
    kernel = prepare(RUNGS["renormalised"], calibration)
    pair = [kernel.sample(given, Draw(i)) for i in (0, 1)]
    torch.testing.assert_close((pair[0] + pair[1]) / 2, mean)
    many = torch.cat([kernel.sample(given, Draw(2 * i)) - mean for i in range(100)]).reshape(-1, D)
    covariance = many.T @ many / len(many)
    torch.testing.assert_close(covariance, 0.25 * torch.eye(D).double(), rtol=0.1, atol=0.02)
    figures = calibration.conditional["renormalised"]
    spread = float((r - r.mean((0, 1))).square().mean())
    assert figures.explained == pytest.approx(1 - 0.25 / spread, abs=0.01)


def test_held_out_figures_credit_nothing_to_noise() -> None:
    """Residuals that depend on nothing: R² is about 0 for all, and none surprises less than `full`."""
    x, r, codes = (gaussian(DOCUMENTS, POSITIONS, n, seed=n) for n in (D, D + 1, FEATURES))
    r, tokens = r[..., :D], (x[..., 0] * 2).long() + 9
    calibration = kept(x, r, codes.clamp(min=0), tokens)
    for name in CONDITIONAL:
        prepare(RUNGS[name], calibration)
    figures = conditional_figures(calibration)["conditional"]
    for name, one in figures.items():
        if name != "full":
            assert -0.02 < one.explained < 0.01, name
    for name in SAMPLERS:
        assert figures[name].surprise > figures["full"].surprise - 0.003, name
    # An isotropic Gaussian, and a thousandth of noise beside it.
    expected = D / 2 * (math.log(2 * math.pi) + 1)
    assert figures["full"].surprise == pytest.approx(expected, abs=0.03)


def test_hetero_finds_the_scale() -> None:
    codes = codes_at(1)
    scale = (codes[..., :1] - codes[..., 1:2]).exp()
    root = gaussian(D, D, seed=5)
    r = 1.0 + scale * (gaussian(DOCUMENTS, POSITIONS, D, seed=2) @ root)
    calibration = kept(gaussian(DOCUMENTS, POSITIONS, D, seed=3), r, codes)
    kernel = prepare(RUNGS["hetero"], calibration)
    fresh = codes_at(9, 2)
    given = context(gaussian(2, POSITIONS, D, seed=8), fresh)
    many = torch.stack([kernel.sample(given, Draw(i)) for i in range(400)]) - calibration.mean
    found = many.square().sum(-1).mean(0).sqrt()
    size = float(root.square().sum().sqrt())
    expected = (fresh[..., 0] - fresh[..., 1]).exp() * size
    assert float((found / expected).log().abs().max()) < 0.35
    assert float((found / expected).log().square().mean().sqrt()) < 0.1
    figures = conditional_figures(calibration)
    assert figures["best"] == "hetero"
    # var log s over that and the variance of log ‖z‖, by simulation of the law itself
    z = (gaussian(10**5, D, seed=77) @ root).norm(dim=-1).log()
    logs = (codes[..., 0] - codes[..., 1]).flatten()
    assert figures["conditional"]["hetero"].explained == pytest.approx(
        float(logs.var() / (logs.var() + z.var())), abs=0.03
    )


def test_context_finds_what_earlier_positions_tell() -> None:
    x = gaussian(DOCUMENTS, POSITIONS, D, seed=1)
    mask = gaussian(DOCUMENTS, POSITIONS, seed=4) < 1.5
    before = torch.zeros_like(x)
    before[:, 2:] = torch.where(mask[:, :-2, None], x[:, :-2], 0.0)
    r = before @ gaussian(D, D, seed=5) + 0.3 * gaussian(DOCUMENTS, POSITIONS, D, seed=2)
    calibration = kept(x, r, mask=mask)
    kernel = prepare(RUNGS["context"], calibration)
    fresh = gaussian(3, POSITIONS, D, seed=8)
    given = replace(context(fresh), mask=gaussian(3, POSITIONS, seed=9) < 1)
    earlier = torch.zeros_like(fresh)
    earlier[:, 2:] = torch.where(given.mask[:, :-2, None], fresh[:, :-2], 0.0)
    mean = (kernel.sample(given, Draw(0)) + kernel.sample(given, Draw(1))) / 2
    wanted = earlier @ gaussian(D, D, seed=5)
    assert float((mean - wanted)[given.mask].square().mean().sqrt()) < 0.05


def test_cluster_is_exact_where_cells_are_far_apart() -> None:
    label = torch.randint(0, 3, (DOCUMENTS, POSITIONS), generator=torch.Generator().manual_seed(0))
    centres, roots, means = gaussian(3, D, seed=1) * 50, gaussian(3, D, D, seed=2), gaussian(3, D, seed=3)
    x = centres[label] + gaussian(DOCUMENTS, POSITIONS, D, seed=4)
    z = gaussian(DOCUMENTS, POSITIONS, D, seed=5)
    r = means[label] + torch.einsum("npd,npde->npe", z, roots[label])
    calibration = kept(x, r)
    kernel = prepare(RUNGS["cluster"], calibration)
    assert kernel.fitted.nu < 64
    for cell in range(3):
        given = context(centres[cell] + gaussian(50, POSITIONS, D, seed=6))
        drawn = kernel.sample(given, Draw(0)).reshape(-1, D)
        error = (roots[cell].T @ roots[cell]).diagonal().sqrt() / len(drawn) ** 0.5
        assert bool(((drawn.mean(0) - means[cell]).abs() < 6 * error + 0.1).all())
        expected = roots[cell].T @ roots[cell]
        spread = torch.cov(drawn.T)
        assert float((spread - expected).norm() / expected.norm()) < 0.2


def test_the_surprise_of_cells_is_the_density_of_their_gaussians() -> None:
    x, r = gaussian(40, POSITIONS, D, seed=1), gaussian(40, POSITIONS, D, seed=2)
    rows = _rows(kept(x, r))
    fitted = replace(fit_cell_gaussians(rows, rows.order()), kappa=10.0)
    some = rows.some(rows.order()[:6])
    cell = fitted.of(some.seen.reconstruction[some.seen.mask])
    floor, total = 0.07, 0.0
    for row, own in zip(some.rows.double(), cell.tolist(), strict=True):
        n, factor = float(fitted.counts[own]), fitted.factors[own]
        sigma = (30 * fitted.covariance.matrix + factor.T @ factor) / (30 + n) + floor * torch.eye(D)
        law = stats.multivariate_normal(fitted.means[own].numpy(), sigma.numpy())
        total += -law.logpdf(row.numpy()) + 0.5 * floor * float(torch.linalg.inv(sigma).trace())
    found = fitted.surprises(some.rows, cell, floor, [4.0, 30.0])
    assert float(found[1]) == pytest.approx(total, rel=1e-9)


def test_the_surprise_of_a_gaussian_is_its_density_in_all_dimensions() -> None:
    """Of a residual that lives in a plane, with noise around it, against SciPy."""
    plane = gaussian(2, D, seed=4)
    folds = [Moments.of(gaussian(200, 2, seed=i) @ plane) for i in range(3)]
    covariance = fit_covariance(folds)
    assert covariance.rank == 2
    rows, floor = gaussian(50, 2, seed=9) @ plane, 0.3
    scatter = (rows - covariance.mean).T @ (rows - covariance.mean)
    sigma = covariance.matrix + floor * torch.eye(D)
    law = stats.multivariate_normal(covariance.mean.numpy(), sigma.numpy())
    expected = -law.logpdf(rows.numpy()).sum() + 0.5 * 50 * floor * float(torch.linalg.inv(sigma).trace())
    assert gaussian_surprise(covariance, scatter, 50, floor) == pytest.approx(expected, rel=1e-9)
    assert surprise([Moments.empty(D)] * 3, floor) is None


@pytest.mark.parametrize("name", CONDITIONAL)
def test_nothing_moves_with_x_and_each_kernel_with_what_it_is_given(name: str) -> None:
    """x is replaced given x̂, codes and earlier x̂; then each of these is replaced in its turn."""
    codes, x = codes_at(1), gaussian(DOCUMENTS, POSITIONS, D, seed=2)
    tokens = (codes[..., 0] > 0).long()
    before = torch.cat([torch.zeros(DOCUMENTS, 1, D).double(), x[:, :-1]], 1)
    # The scale as well, so that `hetero` has something to read off.
    r = told(codes) * codes[..., :1].exp() + before + 2 * x + tokens[..., None]
    kernel = prepare(RUNGS[name], kept(x, r, codes, tokens))
    mask = torch.ones(4, POSITIONS).bool()
    fresh, its = codes_at(9, 4), gaussian(4, POSITIONS, D, seed=8)
    full = replace(
        context(its, fresh, (fresh[..., 0] > 0).long()), residual=gaussian(4, POSITIONS, D, seed=3)
    )
    sample = kernel.sample(full, Draw(0))
    other = replace(full, residual=gaussian(4, POSITIONS, D, seed=4))
    assert torch.equal(kernel.sample(other, Draw(0)), sample)
    needs = RUNGS[name].needs
    assert torch.equal(kernel.sample(full.limited_to(needs), Draw(0)), sample)
    assert "residual" not in needs

    def moves(changed: Context) -> bool:
        return not torch.equal(kernel.sample(changed, Draw(0))[:, -1], sample[:, -1])

    assert moves(replace(full, codes=Codes.of(codes_at(10, 4)[mask]))) is ("codes" in needs)
    assert moves(replace(full, tokens=1 - full.tokens)) is ("tokens" in needs)
    earlier = torch.cat([gaussian(4, POSITIONS - 1, D, seed=5), its[:, -1:]], 1)
    assert moves(replace(full, reconstruction=earlier)) is (name == "context")
    here = torch.cat([its[:, :-1], 5 * gaussian(4, 1, D, seed=5)], 1)
    sees_here = name in ("context", "cluster", "neighbour", "neighbour-mean")
    assert moves(replace(full, reconstruction=here)) is sees_here


# ------------------------------------------------------------------------------- neighbours


def test_neighbours_are_those_of_scikit_learn_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x, r = gaussian(DOCUMENTS, POSITIONS, D, seed=1), gaussian(DOCUMENTS, POSITIONS, D, seed=2)
    rows = _rows(kept(x, r))
    monkeypatch.setattr(rows_module, "_BLOCK", 3 * POSITIONS)  # a bank of forty blocks
    assert len(list(rows.blocks(rows.order()))) == 40
    bank = rows.some(rows.order())
    points = gaussian(300, D, seed=3)
    _, place = NearestNeighbors(n_neighbors=1).fit(bank.seen.reconstruction.reshape(-1, D)).kneighbors(points)
    found = Neighbours(rows, rows.order()).nearest(points)
    expected = bank.residual.reshape(-1, D)[place[:, 0]]
    # float32 takes the other one where two are equally near up to rounding.
    assert float((found.residual == expected).all(-1).double().mean()) > 0.99


def test_of_equally_near_rows_the_first_is_taken_whatever_the_batch() -> None:
    x = gaussian(1, 1, D, seed=1).expand(DOCUMENTS, POSITIONS, D) * 100
    r = gaussian(DOCUMENTS, POSITIONS, D, seed=2)
    rows = _rows(kept(x, r))
    bank = Neighbours(rows, rows.order())
    points = x[:3].reshape(-1, D).float()
    first = rows.some(rows.order()[:1]).rows[0]
    assert torch.equal(bank.nearest(points).residual, first.expand(len(points), D))
    for size in (1, 7):
        assert torch.equal(bank.nearest(points[:size]).residual, first.expand(size, D))


def test_a_neighbour_tells_more_the_more_rows_there_are() -> None:
    x = gaussian(DOCUMENTS, POSITIONS, 2, seed=1)
    r = torch.stack([(3 * x[..., 0]).sin(), (3 * x[..., 1]).cos()], -1)
    r = r + 0.2 * gaussian(DOCUMENTS, POSITIONS, 2, seed=2)
    tokens = (x[..., 0] > 0).long()
    calibration = kept(x, r, tokens=tokens)
    raw = prepare(RUNGS["neighbour"], calibration)
    scaled = prepare(RUNGS["neighbour-mean"], calibration)
    figures = calibration.conditional["neighbour"]
    assert figures.explained == pytest.approx(0.9, abs=0.08)
    assert figures.same_token is not None
    assert figures.same_token > 0.95
    given = context(gaussian(4, POSITIONS, 2, seed=7))
    one, other = raw.sample(given, Draw(0)), scaled.sample(given, Draw(0))
    mean = calibration.mean
    factor = ((other - mean) * (one - mean)).sum() / (one - mean).square().sum()
    torch.testing.assert_close(other, mean + factor * (one - mean), rtol=1e-6, atol=1e-6)


# --------------------------------------------------------------------------------- bad input


def _spoilt(what: str) -> Calibration:
    codes, x = codes_at(1), gaussian(DOCUMENTS, POSITIONS, D, seed=2)
    r = told(codes)
    spoil: dict[str, Callable[[], Calibration]] = {
        "few rows": lambda: kept(x[:2], r[:2], codes[:2]),
        "no codes": lambda: kept(x, r),
        "constant codes": lambda: kept(x, r, torch.ones_like(codes)),
        "one document": lambda: _of_one_document(x, r, codes),
        "not kept": lambda: _not_kept(x, r),
        "constant residual": lambda: kept(x, torch.ones_like(r), codes),
    }
    return spoil[what]()


def _of_one_document(x: torch.Tensor, r: torch.Tensor, codes: torch.Tensor) -> Calibration:
    calibration, mask = Calibration.empty(D, keep=True), torch.ones(x.shape[:2]).bool()
    places = NoiseKeys(3, ("page",) * len(x), tuple(range(len(x))))
    calibration.update(places, x, r, mask, Codes.of(codes[mask]))
    return calibration


def _not_kept(x: torch.Tensor, r: torch.Tensor) -> Calibration:
    calibration = Calibration.empty(D)
    calibration.update(keys(len(x)), x, r, torch.ones(x.shape[:2]).bool())
    return calibration


@pytest.mark.parametrize(
    ("what", "reason", "rungs"),
    [
        ("few rows", "at least 50 calibration rows, and there are 40", CONDITIONAL),
        ("no codes", "needs codes", ["hetero", "renormalised", "renormalised-mean"]),
        ("no codes", "needs tokens", ["token"]),
        ("constant codes", "codes are constant", ["hetero", "renormalised", "renormalised-mean"]),
        ("one document", "all fell into one fold", ["cluster", "context", "neighbour", "renormalised"]),
        ("not kept", "which were not kept", CONDITIONAL),
        ("constant residual", "constant", ["cluster", "hetero"]),
    ],
)
def test_what_cannot_be_fitted_says_why(what: str, reason: str, rungs: list[str]) -> None:
    calibration = _spoilt(what)
    for name in rungs:
        with pytest.raises(NotMeasurableError, match=reason):
            prepare(RUNGS[name], calibration)
    for fitted in calibration.conditional.values():
        assert fitted.surprise is None or math.isfinite(fitted.surprise)


def test_a_constant_residual_leaves_nothing_to_explain() -> None:
    calibration = _spoilt("constant residual")
    for name in ("neighbour", "renormalised", "context"):
        prepare(RUNGS[name], calibration)
        assert calibration.conditional[name].explained is None
    assert conditional_figures(calibration)["best"] is None
    assert Seen(torch.zeros(1, 1, D), torch.ones(1, 1).bool()).codes is None
