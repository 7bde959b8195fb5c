"""Kernels ready to be scored: fitted residual models, how many draws each takes, and what they give.

One batch at a time, draw by draw, so that all kernels of one draw share its noise; a sample is put in at all
spliced positions at once.

Source: protocol 1, sections 2, 3 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.loading.activations import Batch
from remainder.measure.annealed import annealed_loss, plain_loss, unit_log_means
from remainder.measure.losses import Clean, WindowScores, spliced_pass, window_sums
from remainder.model.bridge import Runner
from remainder.record.rungs import RungSpec
from remainder.record.values import RAW_ONLY
from remainder.residual.calibration import Calibration
from remainder.residual.codes import Codes
from remainder.residual.covariance import NotMeasurableError
from remainder.residual.kernel import Context, ResidualModel
from remainder.residual.ladder import prepare
from remainder.residual.noise import Draw, NoiseKeys

__all__ = ["FittedRung", "fit_kernels", "input_ids", "score", "splice", "table_rows"]


class FittedRung(NamedTuple):
    """A rung of the table, its model fitted, and the number of draws it takes."""

    name: str
    rung: RungSpec
    model: ResidualModel
    draws: int = 1

    @property
    def draws_a_unit(self) -> int:
        """Draws that are not independent of each other: an antithetic pair is one unit."""
        return 2 if self.rung.noise == "normal" else 1


def fit_kernels(
    rungs: Mapping[str, RungSpec], calibration: Calibration, draws: Callable[[str], int]
) -> tuple[list[FittedRung], dict[str, str]]:
    """Every rung fitted that the residual admits, and the reasons why the others could not be.

    Args:
        draws: number of draws for a noisy rung of this name.
    """
    kernels, unmeasured = [], {}
    for name, rung in rungs.items():
        try:
            model = prepare(rung, calibration)
        except NotMeasurableError as problem:
            unmeasured[name] = problem.what
            continue
        kernels.append(FittedRung(name, rung, model, 1 if rung.noise == "none" else draws(name)))
    return kernels, unmeasured


def score(
    runner: Runner,
    clean: Clean,
    kernels: Sequence[FittedRung],
    reconstruction: Float[Tensor, "docs pos d"],
    places: NoiseKeys,
    *,
    split: str = "evaluation",
    memo: dict[int, Tensor] | None = None,
    codes: Codes | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the table of values for a batch, kernel after kernel and draw after draw.

    Args:
        memo: noise of this batch by the number of its pair, which others made or will use.
        codes: those that the reconstruction stands on.
    """
    units: dict[str, list[Tensor]] = {kernel.name: [] for kernel in kernels}
    unfinished: dict[str, list[Tensor]] = {kernel.name: [] for kernel in kernels}
    memo = {} if memo is None else memo
    for index in range(max((kernel.draws for kernel in kernels), default=0)):
        for kernel in kernels:
            if index >= kernel.draws:
                continue
            spliced = splice(kernel, Draw(index), clean.batch, reconstruction, places, memo, codes)
            scores, loss = spliced_pass(runner, clean, spliced)
            annealed, plain = None, None
            if kernel.draws > kernel.draws_a_unit:
                part = unfinished[kernel.name]
                part.append(-loss)
                if len(part) == kernel.draws_a_unit:
                    done = units[kernel.name]
                    done.append(unit_log_means(torch.stack(part), len(part))[0])
                    part.clear()
                    if len(done) > 1:
                        annealed = window_sums(clean.batch, annealed_loss(torch.stack(done)))
                        plain = window_sums(clean.batch, plain_loss(torch.stack(done)))
            yield table_rows(
                clean.batch, kernel.name, index, scores, split=split, annealed=annealed, plain=plain
            )


def splice(
    kernel: FittedRung,
    draw: Draw,
    batch: Batch,
    reconstruction: Float[Tensor, "docs pos d"],
    places: NoiseKeys,
    memo: dict[int, Tensor] | None = None,
    codes: Codes | None = None,
) -> Float[Tensor, "docs pos d"]:
    """x̂ + ε (or x + ε, or the sample alone) where something is spliced, x elsewhere.

    Sums are made in float64, so that x̂ + (x − x̂) is x to the bit whatever the suffix's dtype.
    """
    x, estimate = batch.prefix.x_out.double(), reconstruction.double()
    known = {} if memo is None else memo
    context = Context(places, estimate, batch.spliced, x - estimate, known, codes, input_ids(batch))
    base = {"reconstruction": estimate, "activation": x, "nothing": torch.zeros_like(x)}[kernel.rung.base]
    spliced = base + kernel.model.sample(context.limited_to(kernel.rung.needs), draw)
    return torch.where(batch.spliced[..., None], spliced, x).float()


def input_ids(batch: Batch) -> Int[Tensor, "docs pos"] | None:
    """The ids that a model reads, or None where it reads numbers."""
    ids = batch.inputs
    return ids if ids.shape == batch.spliced.shape and not ids.is_floating_point() else None


def table_rows(
    batch: Batch,
    rung: str,
    draw: int,
    scores: WindowScores,
    *,
    split: str = "evaluation",
    annealed: Sequence[float] | None = None,
    plain: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """One row of the table of values for each window of a batch."""
    windows = zip(batch.windows.documents, batch.windows.indices, strict=True)
    return [
        {
            "split": split,
            "document": document,
            "window": window,
            "rung": rung,
            "draw": draw,
            **{name: column[i] for name, column in scores._asdict().items()},
            "annealed": math.nan if annealed is None else annealed[i],
            "annealed_plain": math.nan if plain is None else plain[i],
            **dict.fromkeys(RAW_ONLY, math.nan),
        }
        for i, (document, window) in enumerate(windows)
    ]
