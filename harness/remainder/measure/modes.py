"""The loss of a bath whose shells are one Gaussian mode each, beside that of its own Gaussian.

1. On calibration: moments of r, of the part of it that no source carries, of the difference that each shell
   adds, and of every source's contribution; and g, the leading direction of the loss's gradients.
2. On evaluation: x̂ of the kept sources with Gaussian noise of each covariance, of common draws. What no
   source carries has its own covariance throughout.

Source: `residual.modes`, which says what shells and modes are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.errors import InterpretationError, TaskError
from remainder.interpretation.kept import Some
from remainder.loading.activations import Batch
from remainder.loading.site import SiteTask
from remainder.measure.directions import gradient_directions
from remainder.measure.estimate import Estimate, estimate
from remainder.measure.gather import evaluation_part
from remainder.measure.keeping import Sources, look_at_sources
from remainder.measure.kernels import FittedRung, score, table_rows
from remainder.measure.losses import clean_pass
from remainder.measure.plan import Plan
from remainder.measure.seal import Spent, info
from remainder.record.modes import Discretisation, discretised, edges_of, mode_rung, rungs_of, sums_of
from remainder.record.provenance import collect_provenance
from remainder.record.rungs import RungSpec
from remainder.record.schema import TaskInfo
from remainder.record.values import canonical_values, document_totals
from remainder.residual.modes import Modes, reading_mode, trace_mode
from remainder.residual.moments import Moments
from remainder.residual.noise import NoiseKeys
from remainder.submission.submission import SiteEntry

__all__ = ["RATIOS", "SHIFTS", "estimate_modes", "measure_modes"]

RATIOS = (2.0, 4.0, 8.0)
"""Λ of the shells."""
SHIFTS = (0.0, 0.25, 0.5, 0.75)
"""z that losses are averaged over."""

_GRADIENT_WINDOWS = 16
_ROWS = 256  # of an identity matrix that is decoded at a time
_NOISY = RungSpec("noise of a given covariance", "", "normal")
_STILL = RungSpec("the bath's mean", "")


def measure_modes(
    loaded: SiteTask,
    entry: SiteEntry,
    plan: Plan,
    *,
    order: str = "dynamic",
    keep: int = 0,
    ratios: Sequence[float] = RATIOS,
    shifts: Sequence[float] = SHIFTS,
    progress: Progress | None = None,
) -> Discretisation:
    """The error of one mode a shell, over the ratio of shells.

    Args:
        order: in which sources are kept, see `measure.keeping`.
        keep: how many are kept; all others are the bath.

    Raises:
        InterpretationError: it has no sources in that order, none with contributions, or breaks a rule.
        TaskError: nothing would be left out.
    """
    start = Spent.now()
    tell = progress or silent
    sources = _sources_of(loaded, entry, plan, order, keep, progress)
    with torch.inference_mode():
        bath = _Bath(loaded, sources, plan, keep, list(product(ratios, shifts)), tell)
        bath.gather()
        table = canonical_values(pd.DataFrame(bath.rows()))
    values = sums_of(document_totals(table), ratios, shifts)
    spent, task = start.since(), loaded.task
    return Discretisation(
        protocol=task.protocol,
        task=TaskInfo(id=task.id, version=task.version, hash=task.hash),
        submission=info(entry),
        model=loaded.model,
        corpus=loaded.data,
        tier=plan.tier,
        dtype=plan.dtype,
        seed=task.seed,
        order=sources.label,
        keep=keep,
        sources=sources.full,
        ratios=tuple(ratios),
        shifts=tuple(shifts),
        values=values,
        provenance=collect_provenance(
            {"modes": spent.wall}, cpu={"modes": spent.cpu}, threads=torch.get_num_threads()
        ),
        **discretised(values, sources.full, keep, ratios, shifts, seed=task.seed),
    )


def estimate_modes(
    loaded: SiteTask,
    entry: SiteEntry,
    plan: Plan,
    *,
    order: str = "dynamic",
    keep: int = 0,
    ratios: Sequence[float] = RATIOS,
    shifts: Sequence[float] = SHIFTS,
    progress: Progress | None = None,
) -> Estimate:
    """Foresee what `measure_modes` would take; see `measure.estimate`.

    Raises:
        RemainderError: as `measure_modes`.
    """
    sources = _sources_of(loaded, entry, plan, order, keep, progress)
    edges = {edge for place in product(ratios, shifts) for edge in edges_of(sources.full, *place, keep)}
    noisy = len(rungs_of(ratios, shifts)) - 1
    least = plan._replace(rungs=("mean",), nulls=(), annealed_pairs=0, is_lean=True)
    return estimate(
        loaded,
        [entry],
        least,
        more=2 * plan.pairs * noisy,
        rebuilt=len(edges) * plan.calibration_windows,
    )


def _sources_of(
    loaded: SiteTask, entry: SiteEntry, plan: Plan, order: str, keep: int, progress: Progress | None
) -> Sources:
    """The sources, some of which are left out.

    Raises:
        InterpretationError: it has no sources in that order, none with contributions, or breaks a rule.
        TaskError: nothing would be left out, or it cannot keep as many.
    """
    sources = look_at_sources(loaded, entry, plan, order, progress=progress)
    if sources.sizes is None:
        raise InterpretationError(
            f"{entry.name}: its decoder is not affine in the codes, and its sources have no modes",
            fix="name an interpretation whose decoder is affine",
        )
    if not 0 <= keep < sources.full:
        raise TaskError(
            f"--keep {keep}: {entry.name} has {sources.full} sources", fix=f"keep 0 to {sources.full - 1}"
        )
    return sources


@dataclass
class _Bath:
    """The part that is left out, shell by shell."""

    loaded: SiteTask
    sources: Sources
    plan: Plan
    keep: int
    places: list[tuple[float, float]]
    """Ratios and shifts."""
    tell: Progress
    edges: dict[tuple[float, float], tuple[int, ...]] = field(init=False)
    shells: dict[tuple[int, int], Moments] = field(init=False)
    """Moments of what each shell adds, by its edges."""
    residual: Moments = field(init=False)
    beyond: Moments = field(init=False)
    """Moments of what no source carries."""
    codes: Float[Tensor, "2 features"] | None = None
    """Sums of the codes that are left out, and of their squares."""
    reads: Float[Tensor, " d"] = field(init=False)

    def __post_init__(self) -> None:
        width, device = self.loaded.task.site.width, self.loaded.device
        self.edges = {
            (ratio, shift): edges_of(self.sources.full, ratio, shift, self.keep)
            for ratio, shift in self.places
        }
        pairs = {pair for edges in self.edges.values() for pair in pairwise(edges)}
        self.shells = {pair: Moments.empty(width, device) for pair in sorted(pairs)}
        self.residual, self.beyond = Moments.empty(width, device), Moments.empty(width, device)

    def _batches(self, split: Any, windows: int) -> Iterator[Batch]:
        stored = self.loaded.activations(split, windows)
        return stored.batches(self.loaded.batch_size, self.loaded.device)

    def _rebuilt(self, read: Tensor, codes: Tensor, some: Some) -> Tensor:
        """The reconstruction by some of the sources."""
        adapted = self.sources.adapted
        rebuilt, passed = adapted.decode(some.of(codes)), adapted.skip(read)
        return rebuilt if passed is None else rebuilt + passed

    def gather(self) -> None:
        """Moments on calibration, and the direction that the loss reads."""
        adapted = self.sources.adapted
        numbers = sorted({edge for pair in self.shells for edge in pair})
        seen = 0
        for batch in self._batches("calibration", self.plan.calibration_windows):
            self.tell(f"{adapted.name}: shells", seen, None)
            here, x = batch.spliced, batch.prefix.x_out
            read = adapted.choose(batch.prefix.x_in, x)
            codes = adapted.encode(read)
            kept = self.sources.keeping(self.keep).of(codes)
            at = {
                number: self._rebuilt(read, codes, self.sources.keeping(number))[here].double()
                for number in numbers
            }
            for (low, high), moments in self.shells.items():
                moments.update(at[high] - at[low])
            self.residual.update(x[here].double() - at[self.keep])
            self.beyond.update(x[here].double() - at[self.sources.full])
            left = (codes - kept)[here].double()
            sums = torch.stack([left.sum(0), left.square().sum(0)])
            self.codes = sums if self.codes is None else self.codes + sums
            seen += int(here.sum())
        windows = min(_GRADIENT_WINDOWS, self.plan.calibration_windows)
        found = gradient_directions(
            self.loaded.runner("float32"), self._batches("calibration", windows), count=1
        )
        self.reads = found[0]

    def covariances(self) -> dict[str, Float[Tensor, "d d"]]:
        """Covariances of the noise, by the names of rungs."""
        beyond = _covariance(self.beyond)
        found = {"full": _covariance(self.residual), "independent": self._independent() + beyond}
        for (ratio, shift), edges in self.edges.items():
            shells = [_covariance(self.shells[pair]) for pair in pairwise(edges)]
            reading = [reading_mode(shell, self.reads) for shell in shells]
            trace = [trace_mode(shell) for shell in shells]
            for kind, modes in (("reading", reading), ("trace", trace)):
                stacked = torch.stack(modes)
                found[mode_rung(kind, ratio, shift)] = stacked.T @ stacked + beyond
        return found

    def _independent(self) -> Float[Tensor, "d d"]:
        """Σ_j Var(a_j) d_j d_jᵀ over sources that are left out."""
        assert self.codes is not None
        adapted, count = self.sources.adapted, self.residual.count
        mean, square = self.codes / count
        variances = (square - mean.square()).clamp(min=0)
        live = (variances > 0).nonzero()[:, 0]
        base = adapted.decode(torch.zeros(1, 1, len(variances), device=live.device))[0, 0]
        total = torch.zeros_like(self.residual.scatter)
        for part in live.split(_ROWS):
            units = torch.zeros(1, len(part), len(variances), device=live.device)
            units[0, torch.arange(len(part)), part] = 1.0
            directions = (adapted.decode(units)[0] - base).double()
            total = total + (directions.T * variances[part]) @ directions
        return total

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows of the table of values on evaluation."""
        runner, adapted = self.loaded.runner(self.plan.dtype), self.sources.adapted
        kept, mean = self.sources.keeping(self.keep), self.residual.mean
        draws = 2 * self.plan.pairs
        kernels = [
            FittedRung("mean", _STILL, Modes(mean, torch.zeros_like(self.residual.scatter))),
            *(
                FittedRung(name, _NOISY, Modes(mean, matrix), draws)
                for name, matrix in self.covariances().items()
            ),
        ]
        windows, documents = evaluation_part(self.loaded, self.plan)
        total, done = windows * (1 + draws * (len(kernels) - 1)), 0
        for whole in self._batches("evaluation", windows):
            names = whole.windows.documents
            asked = [row for row, name in enumerate(names) if documents is None or name in documents]
            if not asked:
                continue
            batch = whole.take(asked)
            clean = clean_pass(runner, batch)
            read = adapted.choose(batch.prefix.x_in, batch.prefix.x_out)
            estimate = self._rebuilt(read, adapted.encode(read), kept)
            places = NoiseKeys(self.loaded.task.seed, batch.windows.documents, batch.windows.indices)
            yield from table_rows(batch, "clean", 0, clean.scores)
            for rows in score(runner, clean, kernels, estimate, places):
                done += len(rows)
                self.tell(f"{adapted.name}: modes", done, total)
                yield from rows


def _covariance(moments: Moments) -> Float[Tensor, "d d"]:
    covariance: Tensor = moments.scatter / moments.count
    return covariance
