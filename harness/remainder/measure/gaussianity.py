"""Gaussianity of a residual: effect sizes on evaluation, each beside what a Gaussian would give.

Whiten with calibration, measure on evaluation: w = Σ̂^{−1/2}(r − μ) in d dimensions (the rank of Σ̂).

1. Radius: κ̂ = [d/(d+2)] mean‖w‖⁴/(mean‖w‖²)² − 1. It estimates E s⁴/(E s²)² − 1 where w = s z with normal z.
2. Along functional directions u: skewness κ₃ and excess kurtosis κ₄ of (r − μ)·u, standardised by mean and
   variance on evaluation, so that only shape counts; negentropy κ₃²/12 + κ₄²/48 (the leading terms of the
   Edgeworth expansion), averaged over directions.
3. Along the direction of largest kurtosis among whitened calibration rows: FastICA's fixed point
   v ← E[w (v·w)³] − 3 E[(v·w)²] v (Hyvärinen 1999) from a few fixed starts. In sample even a Gaussian shows
   one (28 among 4,096 rows of 256 dimensions), so the kurtosis reported is that on evaluation.
4. The null of all these: Gaussian surrogates through the same pipeline. For every fold of calibration as many
   rows of N(μ, Σ̂) as the fold holds, by their sufficient statistics, which are drawn exactly: the mean is
   N(μ, Σ̂/n), and the scatter is that of the triangular factor of a QR decomposition of normal rows (Bartlett
   1933). The covariance is fitted and shrunk as the real one was, whitens as many evaluation rows, and
   these are scored. No surrogate is searched for its own direction in step 3: the search sees no evaluation
   row, so under the null the kurtosis is that of independent normal values along whichever direction.
5. Log-likelihood over `full` on evaluation, nats per dimension. `linear`: N(μ + A(x̂ − m), Σ_lin) against
   N(μ, Σ̂). `radial`: the direction's density is the same, so what counts is that of the length, a
   kernel estimate of calibration's log ‖w‖ against the χ law of d degrees.

Two limits of the null: rows of surrogates are independent, while tokens of one document are not; and with
fewer than about five rows a dimension Σ̂ is smoother than the real covariance, and the null of κ̂ lies too low.

Source: protocol 1, section 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.json import significant
from remainder.record.metrics import DirectionTests, Gaussianity, NullTest, RadiusHistogram
from remainder.record.number import Number
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import DenseCovariance, NotMeasurableError, covariance_of, fit_covariance
from remainder.residual.gaussian import Linear, Radial, whitening
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw, NoiseKeys, normal

__all__ = ["FEWEST_SURROGATES", "measure_gaussianity"]

FEWEST_SURROGATES = 50
"""Fewer say too little about the tails of a null."""

_FEWEST_ROWS = 20
_BINS = 60
_SEARCH_ROWS = 4096
_STARTS = 8  # from rows of largest norm, and as many in random directions
_STEPS = 100
_CONVERGED = 1e-8
_POINTS = 64  # whose distances to all known ones are in memory at a time
_WORKERS = 8  # each holds the rows of its surrogate in memory
_CONSTANT = 1e-12
"""A variance below this, in units of the calibration's, is rounding."""
_OUTSIDE = 1e-7
"""Directions with a smaller share of the variance that uncorrelated coordinates would give them lie outside
the support; the same bound decides the rank of the covariance."""

Array = NDArray[np.float64]


def measure_gaussianity(
    calibration: Calibration,
    rows: Float[Tensor, "rows d"],
    reconstructions: Float[Tensor, "rows d"],
    documents: Sequence[int],
    directions: Mapping[str, Float[Tensor, "_ d"]],
    *,
    seed: int,
    surrogates: int = 60,
) -> Gaussianity:
    """Gaussianity of an evaluation residual under the Gaussian fitted on calibration.

    Time grows as surrogates × (d³ + rows × d²): on one core 30 s for 60 surrogates, d = 576 and 4,000 rows.

    Args:
        calibration: what the Gaussian is fitted to.
        rows: evaluation residuals at spliced positions.
        reconstructions: the reconstructions they belong to.
        documents: number of the document of each row; intervals of the gains resample documents.
        directions: functional directions by what they come from; lengths do not matter. Directions in which
            the residual is constant are left out, and so is an entry that has no others.
        seed: of surrogates, search and resamples; the same seed gives the same result.
        surrogates: at least `FEWEST_SURROGATES`.

    Raises:
        NotMeasurableError: if the residual is constant on either split, has too many dimensions for a matrix,
            or has fewer than 20 rows on either split.
        ValueError: if there are too few surrogates, or not as many document numbers as rows.
    """
    if surrogates < FEWEST_SURROGATES:
        raise ValueError(f"a null needs at least {FEWEST_SURROGATES} surrogates, not {surrogates}")
    if len(documents) != len(rows):
        raise ValueError(f"{len(documents)} document numbers for {len(rows)} rows")
    covariance = _dense_covariance(calibration, len(rows))
    rows = rows.to(covariance.mean.device)
    w = covariance.whiten(rows)
    along = {name: _along(covariance, given, w) for name, given in directions.items()}
    along = {name: found for name, found in along.items() if len(found)}
    kurtotic = _most_kurtotic(covariance, calibration, w, seed)
    radial, null = _null(calibration, covariance, [*along.values(), kurtotic], len(rows), seed, surrogates)
    *shapes, kurtotic_shapes = null

    squares = w.square().sum(-1)
    radii = squares.sqrt().cpu().numpy()
    gains = _Gains(np.asarray(documents), covariance.rank, seed)
    return Gaussianity(
        rank=covariance.rank,
        surrogates=surrogates,
        radial_kurtosis=_two_sided(_radial_kurtosis(squares, covariance.rank), radial),
        directions={
            name: _direction_tests(_shape(w @ found.T), theirs)
            for (name, found), theirs in zip(along.items(), shapes, strict=True)
        },
        maximum_kurtosis=_two_sided(
            _shape(w @ kurtotic.T).kurtosis.item(), np.array([one.kurtosis.item() for one in kurtotic_shapes])
        ),
        radial_gain=_radial_gain(calibration, radii, gains),
        linear_gain=_linear_gain(calibration, covariance, rows, reconstructions, gains),
        radii=_histogram(radii, covariance.rank),
    )


def _dense_covariance(calibration: Calibration, evaluation_rows: int) -> DenseCovariance:
    for split, count in (("calibration", calibration.tokens), ("evaluation", evaluation_rows)):
        if count < _FEWEST_ROWS:
            raise NotMeasurableError(
                f"Gaussianity needs at least {_FEWEST_ROWS} rows, {split} has {count}", fix="use more windows"
            )
    covariance = None if calibration.is_large else covariance_of(calibration)
    return whitening(covariance, calibration, "leave Gaussianity out")


# ------------------------------------------------------------------------------------------ statistics


def _radial_kurtosis(squares: Float[Tensor, " rows"], rank: int) -> float:
    """κ̂ from squared whitened lengths."""
    return rank / (rank + 2) * float(squares.square().mean() / squares.mean().square()) - 1


@dataclass(frozen=True)
class _Shape:
    """Standardised third and excess fourth moment along each direction."""

    skewness: Array
    kurtosis: Array

    @property
    def negentropy(self) -> float:
        return float((self.skewness**2 / 12 + self.kurtosis**2 / 48).mean())


def _shape(projections: Float[Tensor, "rows directions"]) -> _Shape:
    centred = projections - projections.mean(0)
    variance = centred.square().mean(0)
    skewness = centred.pow(3).mean(0) / variance.pow(1.5)
    kurtosis = centred.pow(4).mean(0) / variance.square() - 3
    return _Shape(skewness.cpu().numpy(), kurtosis.cpu().numpy())


def _along(
    covariance: DenseCovariance, directions: Float[Tensor, "_ d"], w: Float[Tensor, "rows rank"]
) -> Float[Tensor, "kept rank"]:
    """Directions in whitened coordinates, unit; without those in which the residual does not vary."""
    u = directions.to(covariance.mean)
    whitened = (u @ covariance.vectors) * covariance.values.sqrt()
    power = whitened.square().sum(-1)  # uᵀΣ̂u
    apart = u.square() @ covariance.matrix.diagonal()
    inside = (power > 0) & (power > _OUTSIDE * apart)
    unit = whitened[inside] / power[inside].sqrt()[:, None]
    return unit[_varying(w @ unit.T)]


def _varying(projections: Float[Tensor, "rows directions"]) -> Bool[Tensor, " directions"]:
    return (projections - projections.mean(0)).square().mean(0) > _CONSTANT


def _most_kurtotic(
    covariance: DenseCovariance, calibration: Calibration, w: Float[Tensor, "rows rank"], seed: int
) -> Float[Tensor, "1 rank"]:
    """The unit direction of largest kurtosis among calibration rows that varies on evaluation at all."""
    # The bank's windows stand in the order of their random priorities: the first are a sample.
    search = covariance.whiten(calibration.bank.rows()[:_SEARCH_ROWS].to(w.device))
    longest = search[search.square().sum(-1).argsort(descending=True, stable=True)[:_STARTS]]
    places = NoiseKeys(seed, ("maximum kurtosis",), (0,))
    random = normal(places, Draw(0), _STARTS, covariance.rank, "gaussianity starts")[0].to(w.device)
    found = torch.nn.functional.normalize(torch.cat([longest, random]), dim=-1)
    for _ in range(_STEPS):
        y = search @ found.T
        step = (y.pow(3).T @ search) / len(search) - 3 * y.square().mean(0)[:, None] * found
        # A step of zero has no direction: that start is where it will be.
        moved = torch.where(
            step.norm(dim=-1, keepdim=True) > 0, torch.nn.functional.normalize(step, dim=-1), found
        )
        still = (moved * found).sum(-1).abs() > 1 - _CONVERGED  # the sign may flip for ever
        found = moved
        if bool(still.all()):
            break
    found = found[_varying(search @ found.T) & _varying(w @ found.T)]
    if len(found) == 0:
        raise NotMeasurableError(
            "the residual is constant on evaluation, in all directions of large kurtosis on calibration",
            fix="use more windows",
        )
    return found[int(_shape(search @ found.T).kurtosis.argmax())][None]


# ------------------------------------------------------------------------------------------------ null


def _null(
    calibration: Calibration,
    covariance: DenseCovariance,
    groups: Sequence[Float[Tensor, "_ rank"]],
    evaluation_rows: int,
    seed: int,
    surrogates: int,
) -> tuple[Array, list[list[_Shape]]]:
    """Statistics of each surrogate: κ̂, and the shapes along each group of directions."""
    counts = [fold.count for fold in calibration.residual_folds]
    root = covariance.values.sqrt()[:, None] * covariance.vectors.T

    def one(index: int) -> tuple[float, list[_Shape]]:
        places = NoiseKeys(seed, (f"surrogate {index}",), (0,))
        refit = fit_covariance(
            [
                _surrogate_moments(covariance.mean, root, count, places, f"gaussianity fold {fold}")
                for fold, count in enumerate(counts)
            ]
        )
        z = normal(places, Draw(0), evaluation_rows, len(root), "gaussianity evaluation")[0].to(root.device)
        w = refit.whiten(covariance.mean + z @ root)
        shapes = [_shape(z @ found.T) for found in groups]
        return _radial_kurtosis(w.square().sum(-1), refit.rank), shapes

    with _one_thread_each() as threads, ThreadPoolExecutor(min(threads, _WORKERS)) as pool:
        scored = list(pool.map(one, range(surrogates)))
    by_group = [[shapes[group] for _, shapes in scored] for group in range(len(groups))]
    return np.array([radial for radial, _ in scored]), by_group


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Torch computes with one thread; gives how many there were, for as many surrogates at a time.

    The threads of one small eigenproblem would mostly wait for each other, and what one thread sums does not
    depend on how many cores there are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _surrogate_moments(
    mean: Float[Tensor, " d"], root: Float[Tensor, "rank d"], count: int, places: NoiseKeys, stream: str
) -> Moments:
    """Moments of `count` rows of N(mean, rootᵀroot), drawn from their own law."""
    from scipy import special

    if count == 0:
        return Moments.empty(len(mean), mean.device)
    rank, freedom = len(root), count - 1
    z = normal(places, Draw(0), 1, rank, f"{stream} mean")[0, 0].to(root.device)
    factor = normal(places, Draw(0), min(freedom, rank), rank, f"{stream} scatter")[0]
    if freedom >= rank:
        # Column k keeps what the k columns before it leave of its degrees of freedom.
        left = freedom - np.arange(rank)
        chi_squares = special.chdtri(left, special.ndtr(-factor.diagonal().numpy()))
        factor = torch.triu(factor, 1) + torch.diag(torch.from_numpy(chi_squares).sqrt())
    coloured = factor.to(root.device) @ root
    return Moments(count, mean + z @ root / count**0.5, coloured.T @ coloured)


def _quantiles(surrogates: Array, levels: Sequence[float]) -> list[float]:
    # Weibull's plotting position: a further Gaussian falls below the p-quantile with probability p.
    return [float(value) for value in np.quantile(surrogates, levels, method="weibull")]


def _two_sided(value: float, surrogates: Array) -> NullTest:
    low, high = _quantiles(surrogates, (0.025, 0.975))
    return NullTest(value=value, null_low=low, null_high=high)


def _one_sided(value: float, surrogates: Array) -> NullTest:
    """Test a size, which is never too small."""
    return NullTest(value=value, null_low=0.0, null_high=_quantiles(surrogates, (0.95,))[0])


def _direction_tests(found: _Shape, null: Sequence[_Shape]) -> DirectionTests:
    def largest(values: Array) -> float:
        return float(np.abs(values).max())

    return DirectionTests(
        directions=len(found.skewness),
        skewness=_one_sided(largest(found.skewness), np.array([largest(shape.skewness) for shape in null])),
        kurtosis=_one_sided(largest(found.kurtosis), np.array([largest(shape.kurtosis) for shape in null])),
        negentropy=_one_sided(found.negentropy, np.array([shape.negentropy for shape in null])),
    )


# --------------------------------------------------------------------------------------------- lengths


class _Gains:
    """Means of a log-likelihood ratio per dimension, with intervals over documents."""

    def __init__(self, documents: NDArray[np.int64], rank: int, seed: int) -> None:
        names, self.places = np.unique(documents, return_inverse=True)
        self.rank = rank
        self.bootstrap = Bootstrap(len(names), seed=seed)
        self.dimensions = np.bincount(self.places).astype(np.float64) * rank

    def number(self, gains: Array) -> Number:
        """The number that follows from the nats of each row."""
        sums = np.bincount(self.places, weights=gains).astype(np.float64)
        return Number.of(self.bootstrap.estimate(Ratio(sums, self.dimensions)))


def _radial_gain(calibration: Calibration, radii: Array, gains: _Gains) -> Number:
    from scipy import stats

    known = Radial(calibration).radii.cpu().numpy()
    if min(float(known.min()), float(radii.min())) <= 0:
        return Number.null("a residual equals the mean exactly: its length has no logarithm")
    logs = np.log(known)
    if float(logs.std()) <= _CONSTANT:
        return Number.null("all whitened residuals have one length on calibration: it has no density")
    law = _kernel_density(logs, np.log(radii)) - np.log(radii)
    return gains.number(law - stats.chi.logpdf(radii, gains.rank))


def _kernel_density(known: Array, at: Array) -> Array:
    """Log density at some points of the Gaussian kernel estimate with Scott's bandwidth.

    SciPy's `gaussian_kde` gives the same in three times the time.
    """
    bandwidth = float(known.std(ddof=1)) * len(known) ** -0.2
    rows = torch.from_numpy(known / bandwidth)
    parts = [
        torch.logsumexp((part[:, None] - rows).square_().mul_(-0.5), 1)
        for part in torch.split(torch.from_numpy(at / bandwidth), _POINTS)
    ]
    density: Array = torch.cat(parts).numpy() - np.log(len(known) * bandwidth * np.sqrt(2 * np.pi))
    return density


def _linear_gain(
    calibration: Calibration,
    covariance: DenseCovariance,
    rows: Float[Tensor, "rows d"],
    reconstructions: Float[Tensor, "rows d"],
    gains: _Gains,
) -> Number:
    linear = Linear(calibration)
    if linear.covariance.rank != covariance.rank:
        return Number.null(
            f"given x̂ the residual has {linear.covariance.rank} dimensions, without it {covariance.rank}: "
            "their densities do not compare"
        )
    predicted = linear.coupling.predict(reconstructions.to(rows.device))
    unexplained = rows.double() - predicted + linear.covariance.mean
    gain = linear.covariance.log_density(unexplained) - covariance.log_density(rows)
    return gains.number(gain.cpu().numpy())


def _histogram(radii: Array, rank: int) -> RadiusHistogram:
    """Equal bins over all radii and the bulk of the χ law."""
    from scipy import stats

    low, high = stats.chi.ppf((0.001, 0.999), rank)
    # A little wider, since edges are rounded and every row has to be in some bin.
    low = min(low, float(radii.min())) * (1 - 1e-5)
    high = max(high, float(radii.max())) * (1 + 1e-5)
    edges = [significant(float(edge)) for edge in np.linspace(low, high, _BINS + 1)]
    counts, _ = np.histogram(radii, edges)
    return RadiusHistogram(edges=tuple(edges), counts=tuple(int(count) for count in counts))
