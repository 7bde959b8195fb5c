"""Reconstructions at several sites of one model at once, each with a Gaussian residual.

In one pass, at every site s in turn and at all its spliced positions,

    x'_s is replaced by x̂_s(x'_s) + ε_s,    x'_s the activation in this very pass,  ε_s ~ N(μ_s, Σ_s),

with ε independent between sites. (Without ε: raw.) μ_s and Σ_s are fitted on calibration, by one of three
rules:
- `single-shot`: to r_s = x_s − x̂_s(x_s) of the untouched model;
- `sequential`: from the first site to the last, to r'_s = x'_s − x̂_s(x'_s), where x'_s is from a pass in
  which all sites before s are already replaced, noise and all: with corrections from other layers;
- `counterterm`: such that x̂_s(x'_s) + ε_s has mean and covariance of the untouched x_s,
  μ_s = E x_s − E x̂_s(x'_s) and Σ_s the positive part of Cov x_s − Cov x̂_s(x'_s), in the same sweep.
At the first site the first two are the same.

Σ of the first two is shrunk as that of the rung `full` (`residual.covariance`); the third is a difference of
two covariances and is not. Moments are streamed in float64 by fold of documents; noise is keyed by document,
window and site.

Source: protocol 1, sections 4, 5 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from remainder.circuit.features import FeatureSite
from remainder.errors import MeasurementError, TaskError
from remainder.model.sites import Edit, SiteModel
from remainder.record.rungs import FOLDS
from remainder.residual.covariance import DenseCovariance, fit_covariance
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw, NoiseKeys, folds, normal

__all__ = [
    "STATISTICS",
    "Batches",
    "FoldMoments",
    "SiteBatch",
    "SiteNoise",
    "Statistics",
    "fit_sites",
    "run_sites",
]

Statistics = Literal["single-shot", "sequential", "counterterm"]
STATISTICS: tuple[Statistics, ...] = ("single-shot", "sequential", "counterterm")


class SiteBatch(NamedTuple):
    """Windows, and where each site is spliced."""

    inputs: Shaped[Tensor, "docs pos *item"]
    targets: Shaped[Tensor, "docs pos"]
    places: NoiseKeys
    spliced: Mapping[str, Bool[Tensor, "docs pos"]]
    scored: Bool[Tensor, "docs pos"]


@dataclass(frozen=True)
class SiteNoise:
    """N(μ, Σ) at one site."""

    name: str
    covariance: DenseCovariance

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """μ."""
        return self.covariance.mean

    def sample(self, places: NoiseKeys, draw: Draw, positions: int) -> Float[Tensor, "docs pos d"]:
        """ε in float64, independent of that of sites of other names."""
        z = normal(places, draw, positions, len(self.mean), f"normal {self.name}").to(self.mean.device)
        return self.mean + self.covariance.colour(z, places, draw)


Batches = Callable[[], Iterable[SiteBatch]]


def fit_sites(
    model: SiteModel,
    sites: Sequence[FeatureSite],
    batches: Batches,
    statistics: Statistics | Sequence[Statistics] = STATISTICS,
) -> dict[Statistics, dict[str, SiteNoise]]:
    """Noise of every site by each of the rules; see the module.

    Args:
        model: with the hooks of all sites.
        sites: in the order of a pass.
        batches: gives the calibration windows anew whenever it is called.
        statistics: one rule or several.

    Raises:
        TaskError: sites are not in the order of a pass.
        MeasurementError: a value is not finite, or nothing is spliced at a site.
    """
    wanted = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    residuals, clean = _clean_moments(model, sites, batches)
    single = {name: SiteNoise(name, fit_covariance(parts)) for name, parts in residuals.items()}
    found: dict[Statistics, dict[str, SiteNoise]] = {}
    for rule in wanted:
        if rule == "single-shot":
            found[rule] = single
            continue
        noises: dict[str, SiteNoise] = {}
        sequential = rule == "sequential"
        for place, site in enumerate(sites):
            if sequential and place == 0:
                noises[site.name] = single[site.name]
                continue
            parts = _sweep(model, sites[:place], site, noises, batches, residual=sequential)
            kept = Moments.merged(parts)
            covariance = fit_covariance(parts) if sequential else _missing(clean[site.name], kept)
            noises[site.name] = SiteNoise(site.name, covariance)
        found[rule] = noises
    return found


def run_sites(
    model: SiteModel,
    sites: Sequence[FeatureSite],
    batch: SiteBatch,
    noises: Mapping[str, SiteNoise] | None,
    draw: int = 0,
) -> Float[Tensor, "docs pos outputs"]:
    """Outputs of a pass with all sites replaced; `noises` None: raw."""
    return model.run(batch.inputs, _splices(sites, batch, noises, Draw(draw)))


class FoldMoments:
    """Moments of rows, by fold of documents."""

    def __init__(self) -> None:
        self.parts: list[Moments] = []

    def update(
        self, places: NoiseKeys, rows: Float[Tensor, "docs pos d"], mask: Bool[Tensor, "docs pos"]
    ) -> None:
        """Add the rows where `mask` holds, those of each window to the fold of its document."""
        if not self.parts:
            self.parts = [Moments.empty(rows.shape[-1], rows.device) for _ in range(FOLDS)]
        # By document, so that what a covariance is shrunk by is held out.
        dealt = torch.tensor(folds(places, FOLDS)).to(mask.device)
        for index, part in enumerate(self.parts):
            part.update(rows[(dealt == index)[:, None] & mask].double())

    def found(self, name: str) -> list[Moments]:
        """Moments of each fold.

        Args:
            name: of the site, for the message.

        Raises:
            MeasurementError: fewer than two rows were seen.
        """
        if sum(part.count for part in self.parts) < 2:
            raise MeasurementError(
                f"fewer than two positions of calibration are spliced at {name}", fix="use more windows"
            )
        return self.parts


def _clean_moments(
    model: SiteModel, sites: Sequence[FeatureSite], batches: Batches
) -> tuple[dict[str, list[Moments]], dict[str, Moments]]:
    """Moments of every site's residual, by fold, and of its activation, in the untouched model."""
    residuals = {site.name: FoldMoments() for site in sites}
    activations = {site.name: FoldMoments() for site in sites}
    order: list[str] = []
    for batch in batches():
        order.clear()

        def noter(site: FeatureSite, batch: SiteBatch = batch) -> Callable[[Tensor, Tensor], None]:
            def note(read: Tensor, x: Tensor) -> None:
                order.append(site.name)
                estimate = site.rebuild(site.interpretation.encode(read), read).double()
                mask = batch.spliced[site.name]
                residuals[site.name].update(batch.places, x.double() - estimate, mask)
                activations[site.name].update(batch.places, x.double(), mask)

            return note

        edits = [edit for site in sites for edit in site.edits(noter(site))]
        model.run(batch.inputs, edits, [-1])
        if order != [site.name for site in sites]:
            raise TaskError(f"in a pass the sites come as {', '.join(order)}", fix="give them in this order")
    return (
        {name: part.found(name) for name, part in residuals.items()},
        {name: Moments.merged(part.found(name)) for name, part in activations.items()},
    )


def _sweep(
    model: SiteModel,
    before: Sequence[FeatureSite],
    site: FeatureSite,
    noises: Mapping[str, SiteNoise],
    batches: Batches,
    *,
    residual: bool,
) -> list[Moments]:
    """Moments by fold at a site, of x' − x̂(x') or of x̂(x'), where the sites before it are replaced."""
    found = FoldMoments()
    for batch in batches():
        edits = _splices(before, batch, noises, Draw(0))
        seen: list[Tensor] = []
        if site.hook_in != site.hook_out:
            edits.append((site.hook_in, seen.append))
        x = model.activation(batch.inputs, edits, site.hook_out)
        read = seen[0] if seen and getattr(site.interpretation, "reads", "in") == "in" else x
        estimate = site.rebuild(site.interpretation.encode(read), read).double()
        found.update(batch.places, x.double() - estimate if residual else estimate, batch.spliced[site.name])
    return found.found(site.name)


def _missing(clean: Moments, kept: Moments) -> DenseCovariance:
    """The mean and covariance of x that x̂(x') lacks; directions in which it has too much get none."""
    values, vectors = torch.linalg.eigh(clean.covariance - kept.covariance)
    positive = values > 1e-12 * values.abs().max()
    values, vectors = values[positive], vectors[:, positive]
    variances = ((vectors * values) * vectors).sum(1)
    return DenseCovariance(clean.mean - kept.mean, variances, values, vectors.contiguous(), 0.0, None, None)


def _splices(
    sites: Sequence[FeatureSite], batch: SiteBatch, noises: Mapping[str, SiteNoise] | None, draw: Draw
) -> list[tuple[str, Edit]]:
    def splicer(site: FeatureSite) -> Callable[[Tensor, Tensor], Tensor]:
        def splice(read: Tensor, x: Tensor) -> Tensor:
            new = site.rebuild(site.interpretation.encode(read), read).double()
            if noises is not None:
                new = new + noises[site.name].sample(batch.places, draw, x.shape[1])
            return torch.where(batch.spliced[site.name][..., None], new, x.double()).to(x.dtype)

        return splice

    return [edit for site in sites for edit in site.edits(splicer(site))]
