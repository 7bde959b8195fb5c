"""Reconstructions at several sites of one model at once, each with a Gaussian residual.

In one pass, at every site s in turn and at all its spliced positions,

    x'_s is replaced by x̂_s(x'_s) + ε_s,    x'_s the activation in this very pass,  ε_s ~ N(μ_s, Σ_s),

with ε independent between sites. (Without ε: raw.) μ_s and Σ_s are fitted on calibration, by one of three
rules:
- `single-shot`: to r_s = x_s − x̂_s(x_s) of the untouched model;
- `sequential`: from the first site to the last, to r'_s = x'_s − x̂_s(x'_s), where x'_s is from a pass in which
  all sites before s are already replaced, noise and all: with corrections from other layers;
- `counterterm`: such that x̂_s(x'_s) + ε_s has mean and covariance of the untouched x_s,
  μ_s = E x_s − E x̂_s(x'_s) and Σ_s the positive part of Cov x_s − Cov x̂_s(x'_s), in the same sweep.
At the first site the first two are the same.

Σ of the first two is shrunk as that of the rung `full` (`residual.covariance`); the third is a difference of
two covariances and is not. Moments are streamed in float64 by fold of documents; noise is keyed by document,
window and site. The loss counts where it does at every site.

Source: protocol 1, sections 4, 5 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from remainder.assets import Progress
from remainder.circuit.features import FeatureSite
from remainder.circuit.features_model import BridgeSiteModel, Edit, SiteModel
from remainder.errors import MeasurementError, TaskError
from remainder.interpretation import Adapted
from remainder.loaded import LoadedTask
from remainder.measure.intervals import Bootstrap, Estimate, Ratio
from remainder.measure.likelihood import likelihood_of
from remainder.model import BridgeRunner
from remainder.residual.covariance import DenseCovariance, fit_covariance
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw, Places, folds, normal
from remainder.rungs import FOLDS

__all__ = [
    "STATISTICS",
    "Shift",
    "SiteBatch",
    "SiteNoise",
    "SitesResult",
    "Statistics",
    "fit_sites",
    "measure_sites",
    "run_sites",
]

Statistics = Literal["single-shot", "sequential", "counterterm"]
STATISTICS: tuple[Statistics, ...] = ("single-shot", "sequential", "counterterm")

_RUNGS: Mapping[Statistics, str] = {
    "single-shot": "full",
    "sequential": "full-sequential",
    "counterterm": "full-counterterm",
}


class SiteBatch(NamedTuple):
    """Windows, and where each site is spliced."""

    inputs: Shaped[Tensor, "docs pos *item"]
    targets: Shaped[Tensor, "docs pos"]
    places: Places
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

    def sample(self, places: Places, draw: Draw, positions: int) -> Float[Tensor, "docs pos d"]:
        """ε in float64, independent of that of sites of other names."""
        z = normal(places, draw, positions, len(self.mean), f"normal {self.name}").to(self.mean.device)
        return self.mean + self.covariance.colour(z, places, draw)


class Shift(NamedTuple):
    """How far statistics of a site are from those of the untouched model."""

    mean: float
    """‖μ' − μ‖ / √tr Σ."""
    power: float
    """tr Σ' / tr Σ."""
    covariance: float
    """‖Σ' − Σ‖ / ‖Σ‖, of Frobenius."""


@dataclass(frozen=True)
class SitesResult:
    """What replacing all sites at once costs, by rung: `raw`, `full`, and `full` with the other statistics."""

    sites: tuple[str, ...]
    gap: Mapping[str, Estimate]
    """Nats a scored token above the clean loss."""
    kl: Mapping[str, Estimate]
    difference: Mapping[str, Estimate]
    """Loss of a rung less that of `full`, paired."""
    shift: Mapping[str, Mapping[str, Shift]]
    """By rung, then by site."""
    documents: int
    tokens: int


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
        for place, site in enumerate(sites):
            if rule == "sequential":
                if place == 0:
                    noises[site.name] = single[site.name]
                    continue
                parts = _sweep(model, sites[:place], site, noises, batches, residual=True)
                noises[site.name] = SiteNoise(site.name, fit_covariance(parts))
            else:
                parts = _sweep(model, sites[:place], site, noises, batches, residual=False)
                missing = _missing(clean[site.name], Moments.merged(parts))
                noises[site.name] = SiteNoise(site.name, missing)
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


def measure_sites(
    loaded: Sequence[LoadedTask],
    interpretations: Sequence[Adapted],
    *,
    statistics: Sequence[Statistics] = STATISTICS,
    calibration_windows: int,
    evaluation_windows: int,
    pairs: int = 1,
    dtype: str = "float32",
    batch_size: int = 4,
    progress: Progress | None = None,
) -> tuple[SitesResult, pd.DataFrame]:
    """Replace the sites of several tasks at once; gives gaps with intervals, and per-window values.

    Args:
        loaded: tasks on one model and one text, in the order of their sites in a pass.
        interpretations: one for each.
        statistics: rules for the noise; `raw` is measured as well.
        calibration_windows, evaluation_windows: how many; windows are those of the tasks.
        pairs: antithetic pairs of draws.
        dtype: of the model.
        batch_size: windows in one pass; outputs over the whole vocabulary are held for as many.

    Raises:
        TaskError: tasks differ in model or text, or their sites are not in the order of a pass.
        MeasurementError: a result is not finite.
    """
    runner = _check_tasks(loaded, interpretations, dtype)
    model = BridgeSiteModel(runner.bridge)
    device, seed = loaded[0].device, loaded[0].task.seed
    sites = [
        FeatureSite(one.task.site.hook_in, one.task.site.hook_out, interpretation.placed(device))
        for one, interpretation in zip(loaded, interpretations, strict=True)
    ]
    rows: list[dict[str, Any]] = []
    with torch.no_grad():

        def calibration() -> Iterator[SiteBatch]:
            return _batches(loaded, sites, "calibration", calibration_windows, batch_size)

        single = fit_sites(model, sites, calibration, ("single-shot", *statistics))
        done = 0
        for batch in _batches(loaded, sites, "evaluation", evaluation_windows, batch_size):
            rows += _scores(model, sites, batch, {rule: single[rule] for rule in statistics}, pairs)
            done += len(batch.inputs)
            if progress is not None:
                progress(f"{len(sites)} sites at once", done, evaluation_windows)
    values = pd.DataFrame(rows)
    shift = {
        _RUNGS[rule]: {
            name: _shift(single["single-shot"][name], noise) for name, noise in single[rule].items()
        }
        for rule in statistics
        if rule != "single-shot"
    }
    return _result(values, [site.name for site in sites], shift, seed), values


def _check_tasks(
    loaded: Sequence[LoadedTask], interpretations: Sequence[Adapted], dtype: str
) -> BridgeRunner:
    if len(loaded) != len(interpretations) or not loaded:
        raise TaskError(
            f"{len(loaded)} tasks and {len(interpretations)} interpretations",
            fix="give one interpretation for every task",
        )
    runner = loaded[0].runner(dtype)
    for other in loaded[1:]:
        if other.model.sha256 != loaded[0].model.sha256:
            raise TaskError(
                f"{loaded[0].task.id} and {other.task.id} are of different models",
                fix="choose sites of one model",
            )
    if not isinstance(runner, BridgeRunner):
        raise TaskError(
            f"{loaded[0].task.id} is not of a language model", fix="choose tasks of a language model"
        )
    return runner


def _batches(
    loaded: Sequence[LoadedTask], sites: Sequence[FeatureSite], split: Any, windows: int, size: int
) -> Iterator[SiteBatch]:
    """Windows of all tasks side by side."""
    streams = [one.activations(split, windows).batches(size, one.device) for one in loaded]
    for group in zip(*streams, strict=True):
        first = group[0]
        for other, one in zip(group[1:], loaded[1:], strict=True):
            if (
                not torch.equal(first.inputs, other.inputs)
                or first.windows.documents != other.windows.documents
            ):
                raise TaskError(
                    f"{loaded[0].task.id} and {one.task.id} have different windows of {split}",
                    fix="choose tasks on one text, with the same splits",
                )
        spliced = {site.name: batch.spliced for site, batch in zip(sites, group, strict=True)}
        yield SiteBatch(
            first.inputs,
            first.targets,
            Places(loaded[0].task.seed, first.windows.documents, first.windows.indices),
            spliced,
            torch.stack([batch.scored for batch in group]).all(0),
        )


class _Folds:
    """Moments of rows, by fold of documents."""

    def __init__(self) -> None:
        self.parts: list[Moments] = []

    def update(
        self, places: Places, rows: Float[Tensor, "docs pos d"], mask: Bool[Tensor, "docs pos"]
    ) -> None:
        if not self.parts:
            self.parts = [Moments.empty(rows.shape[-1], rows.device) for _ in range(FOLDS)]
        dealt = torch.tensor(folds(places, FOLDS)).to(mask.device)
        for index, part in enumerate(self.parts):
            part.update(rows[(dealt == index)[:, None] & mask].double())

    def found(self, name: str) -> list[Moments]:
        if sum(part.count for part in self.parts) < 2:
            raise MeasurementError(
                f"fewer than two positions of calibration are spliced at {name}", fix="use more windows"
            )
        return self.parts


def _clean_moments(
    model: SiteModel, sites: Sequence[FeatureSite], batches: Batches
) -> tuple[dict[str, list[Moments]], dict[str, Moments]]:
    """Of every site's residual, by fold, and of its activation, in the untouched model."""
    residuals = {site.name: _Folds() for site in sites}
    activations = {site.name: _Folds() for site in sites}
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
    found = _Folds()
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
    """What x̂(x') lacks of the mean and covariance of x; directions in which it has too much get none."""
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


def _scores(
    model: SiteModel,
    sites: Sequence[FeatureSite],
    batch: SiteBatch,
    noises: Mapping[Statistics, Mapping[str, SiteNoise]],
    pairs: int,
) -> Iterator[dict[str, Any]]:
    """Rows of the table of values of one batch."""
    targets = batch.targets[batch.scored]
    likelihood = likelihood_of(targets)
    outputs = model.run(batch.inputs, [])[batch.scored]
    kept = likelihood.keep(outputs)
    windows = batch.scored.nonzero()[:, 0].cpu().numpy()

    def rows(rung: str, draw: int, outputs: Tensor) -> Iterator[dict[str, Any]]:
        compared = likelihood.compare(kept, outputs, targets)
        loss, kl = (part.double().cpu().numpy() for part in (compared.loss, compared.kl))
        if not (np.isfinite(loss).all() and np.isfinite(kl).all()):
            raise MeasurementError(
                f"{rung}: a loss or KL is NaN or infinite", fix="check the reconstructions' scale"
            )
        for place, (document, window) in enumerate(
            zip(batch.places.documents, batch.places.windows, strict=True)
        ):
            mine = windows == place
            yield {
                "split": "evaluation",
                "document": document,
                "window": window,
                "rung": rung,
                "draw": draw,
                "tokens": int(mine.sum()),
                "loss": float(loss[mine].sum()),
                "kl": float(kl[mine].sum()),
            }

    yield from rows("clean", 0, outputs)
    yield from rows("raw", 0, run_sites(model, sites, batch, None)[batch.scored])
    for rule, of_sites in noises.items():
        for draw in range(2 * pairs):
            spliced = run_sites(model, sites, batch, of_sites, draw)[batch.scored]
            yield from rows(_RUNGS[rule], draw, spliced)


def _shift(single: SiteNoise, other: SiteNoise) -> Shift:
    a, b = single.covariance.matrix, other.covariance.matrix
    return Shift(
        float((other.mean - single.mean).norm() / a.trace().sqrt()),
        float(b.trace() / a.trace()),
        float((b - a).norm() / a.norm()),
    )


def _result(
    values: pd.DataFrame, sites: Sequence[str], shift: Mapping[str, Mapping[str, Shift]], seed: int
) -> SitesResult:
    # The mean over draws of a window, then the sum over the windows of a document.
    means = values.groupby(["rung", "document", "window"])[["tokens", "loss", "kl"]].mean()
    totals = means.groupby(["rung", "document"]).sum()
    clean = totals.loc["clean"]
    tokens = clean["tokens"].to_numpy(dtype=np.float64)
    bootstrap = Bootstrap(len(clean), seed=seed)

    def column(rung: str, name: str) -> NDArray[np.float64]:
        found: NDArray[np.float64] = totals.loc[rung].loc[clean.index][name].to_numpy(dtype=np.float64)
        return found

    rungs = [str(rung) for rung in values["rung"].unique() if rung != "clean"]
    return SitesResult(
        tuple(sites),
        {
            rung: bootstrap.estimate(Ratio(column(rung, "loss") - column("clean", "loss"), tokens))
            for rung in rungs
        },
        {rung: bootstrap.estimate(Ratio(column(rung, "kl"), tokens)) for rung in rungs},
        {
            rung: bootstrap.estimate(Ratio(column(rung, "loss") - column("full", "loss"), tokens))
            for rung in rungs
            if rung != "full" and "full" in rungs
        },
        shift,
        len(clean),
        int(tokens.sum()),
    )
