"""The cost of replacing several sites of one model at once, with noise by three kinds of statistics.

Sites are those of tasks on one model and one text. Each window is run clean, raw, and with the noise of each
rule of `remainder.measure.several_sites_fit`; the loss counts where it does at every site. Per-window values
are summed by document, and intervals are over documents, paired.

Source: protocol 1, sections 2 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.circuit.features import FeatureSite
from remainder.errors import MeasurementError, TaskError
from remainder.interpretation.protocol import Adapted
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import at_site
from remainder.loading.site import SiteTask
from remainder.measure.likelihood import likelihood_of
from remainder.measure.several_sites_fit import (
    STATISTICS,
    SiteBatch,
    SiteNoise,
    Statistics,
    fit_sites,
    run_sites,
)
from remainder.model.bridge import BridgeRunner
from remainder.model.module import ModuleRunner
from remainder.model.sites import BridgeSiteModel, SiteModel
from remainder.record.intervals import Bootstrap, Estimate, Ratio
from remainder.residual.noise import NoiseKeys
from remainder.submission.objects import object_submission
from remainder.submission.open import open_submission

__all__ = ["Shift", "SitesResult", "evaluate_sites", "site_batches", "site_model"]

_RUNGS: Mapping[Statistics, str] = {
    "single-shot": "full",
    "sequential": "full-sequential",
    "counterterm": "full-counterterm",
}


class Shift(NamedTuple):
    """Distances of a site's statistics from those of the untouched model."""

    mean: float
    """‖μ' − μ‖ / √tr Σ."""
    power: float
    """tr Σ' / tr Σ."""
    covariance: float
    """‖Σ' − Σ‖ / ‖Σ‖, of Frobenius."""


@dataclass(frozen=True)
class SitesResult:
    """The cost of replacing all sites at once, by rung: `raw`, `full`, `full` with other statistics."""

    sites: tuple[str, ...]
    gap: Mapping[str, Estimate]
    """Nats a scored token above the clean loss."""
    kl: Mapping[str, Estimate]
    difference: Mapping[str, Estimate]
    """Loss of a rung less that of `full`, paired."""
    shift: Mapping[str, Mapping[str, Shift]]
    """Shifts by rung, then by site."""
    documents: int
    tokens: int


def evaluate_sites(
    tasks: Sequence[LoadedTask],
    interpretations: Sequence[Any],
    *,
    statistics: Sequence[Statistics] = STATISTICS,
    calibration_windows: int,
    evaluation_windows: int,
    pairs: int = 1,
    dtype: str = "float32",
    trust_code: bool = False,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> tuple[SitesResult, pd.DataFrame]:
    """Replace the sites of several tasks at once; gives gaps with intervals, and per-window values.

    Args:
        tasks: on one model and one text, as `open_task` gives them, in the order of their sites in a pass.
        interpretations: one for each task, as `remainder.evaluate` takes it.
        statistics: rules for the noise; `raw` is measured as well.
        calibration_windows, evaluation_windows: how many; windows are those of the tasks.
        pairs: antithetic pairs of draws.
        dtype: of the model.
        trust_code: whether code of submissions that are code may be executed.
        batch_size: windows in one pass; outputs over the whole vocabulary are held for as many.

    Raises:
        TaskError: tasks differ in model or text, or their sites are not in the order of a pass.
        MeasurementError: a result is not finite.
    """
    loaded = [at_site(task) for task in tasks]
    model = site_model(loaded, interpretations, dtype)
    device, seed = loaded[0].device, loaded[0].task.seed
    sites = [
        FeatureSite(
            one.task.site.hook_in,
            one.task.site.hook_out,
            _opened(interpretation, one, trust_code).placed(device),
        )
        for one, interpretation in zip(loaded, interpretations, strict=True)
    ]
    rows: list[dict[str, Any]] = []
    with torch.no_grad():

        def calibration() -> Iterator[SiteBatch]:
            return site_batches(loaded, sites, "calibration", calibration_windows, batch_size)

        single = fit_sites(model, sites, calibration, ("single-shot", *statistics))
        done = 0
        for batch in site_batches(loaded, sites, "evaluation", evaluation_windows, batch_size):
            rows += _scores(model, sites, batch, {rule: single[rule] for rule in statistics}, pairs)
            done += len(batch.inputs)
            (progress or silent)(f"{len(sites)} sites at once", done, evaluation_windows)
    values = pd.DataFrame(rows)
    shift = {
        _RUNGS[rule]: {
            name: _shift(single["single-shot"][name], noise) for name, noise in single[rule].items()
        }
        for rule in statistics
        if rule != "single-shot"
    }
    return _result(values, [site.name for site in sites], shift, seed), values


def _opened(interpretation: Any, loaded: SiteTask, trust_code: bool) -> Adapted:
    """An interpretation that was read before, an object from a notebook, or what a name or path means."""
    if isinstance(interpretation, Adapted):
        return interpretation
    named = isinstance(interpretation, (str, Path))
    entry = (
        open_submission(interpretation, trust_code=trust_code) if named else object_submission(interpretation)
    )
    return entry.build(loaded.task, lambda: loaded.fit_moments(loaded.task.tier("quick").fit_windows))


def site_model(loaded: Sequence[SiteTask], interpretations: Sequence[Any], dtype: str) -> SiteModel:
    """The one model of all tasks.

    Raises:
        TaskError: they are not as many as interpretations, or of different models.
    """
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
    if isinstance(runner, BridgeRunner):
        return BridgeSiteModel(runner.bridge)
    assert isinstance(runner, ModuleRunner)
    return runner


def site_batches(
    loaded: Sequence[SiteTask], sites: Sequence[FeatureSite], split: Any, windows: int, size: int
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
            NoiseKeys(loaded[0].task.seed, first.windows.documents, first.windows.indices),
            spliced,
            torch.stack([batch.scored for batch in group]).all(0),
        )


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

    def less(rung: str, base: str) -> Estimate:
        return bootstrap.estimate(Ratio(column(rung, "loss") - column(base, "loss"), tokens))

    rungs = [str(rung) for rung in values["rung"].unique() if rung != "clean"]
    return SitesResult(
        tuple(sites),
        {rung: less(rung, "clean") for rung in rungs},
        {rung: bootstrap.estimate(Ratio(column(rung, "kl"), tokens, "positive")) for rung in rungs},
        {rung: less(rung, "full") for rung in rungs if rung != "full" and "full" in rungs},
        shift,
        len(clean),
        int(tokens.sum()),
    )
