"""Near and far, token by token: what the bath of each token costs once its nearest sources are kept.

1. On calibration: codes of all tokens, of which tissues are made (`measure.tissue_cells`); gradients of the
   loss, where sources are kept by attribution.
2. For each order and number of near sources: residuals of calibration with these kept, to which rungs are
   fitted, among them a Gaussian in each cell of the near reconstruction (`residual.cluster`).
3. On evaluation: the clean model's loss and entropy, and every rung's loss, or its KL, at every scored token.

With no source kept, and with all, every order keeps the same: these are measured once. Codes are exact.

Source: protocol 1, sections 2 to 5; protocol 2, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from remainder.base.cache import Progress
from remainder.errors import MeasurementError
from remainder.loading.activations import Batch
from remainder.loading.site import LanguageTask, SiteTask
from remainder.measure.directions import loss_gradients
from remainder.measure.gather import evaluation_part
from remainder.measure.keeping import Sources
from remainder.measure.kernels import FittedRung, fit_kernels, splice
from remainder.measure.losses import clean_entropy, clean_pass, compared_pass
from remainder.measure.near import Near
from remainder.measure.plan import Plan
from remainder.measure.tissue_cells import TissueCells, directions_of, fit_tissues, prominent, tissues_for
from remainder.record.rungs import KERNELS
from remainder.record.tissues import LOSSES, RATIO
from remainder.residual.calibration import Calibration
from remainder.residual.codes import Codes
from remainder.residual.noise import Draw, NoiseKeys

__all__ = [
    "CALIBRATION",
    "PAIRS",
    "RUNGS",
    "Cell",
    "TokenValues",
    "calibration_windows",
    "cells_of",
    "measure_tokens",
]

CALIBRATION = 16384
"""Calibration positions at most, of which gradients are taken too."""
PAIRS = 2
"""Antithetic pairs of every noisy rung."""

RUNGS = tuple(dict.fromkeys((*LOSSES, *RATIO)))
"""Rungs of the first order; `_FIRST` are its alone."""

_FIRST = {"cluster": "measured for the first order alone"}  # k-means takes most of a fit's time
_WORD = 24  # letters of a token that are kept


def calibration_windows(loaded: SiteTask, most: int) -> int:
    """How many calibration windows are looked at, of so many."""
    positions = int(loaded.windows("calibration").inputs.shape[1])
    return min(most, max(1, CALIBRATION // positions))


@dataclass(frozen=True)
class Cell:
    """An order and a number of near sources."""

    order: str
    keep: int


@dataclass
class TokenValues:
    """Everything measured, token by token."""

    tokens: pd.DataFrame
    """A row a scored token: document, window, position, tissue, entropy (empty for numbers)."""
    values: dict[Cell, dict[str, NDArray[np.float64]]]
    """Values by column: losses less the clean one and KLs, nats, `[tokens]`."""
    unmeasured: dict[Cell, dict[str, str]]
    tissues: TissueCells
    words: list[tuple[str, ...]]
    """Tokens that stand out in each tissue; empty where there is no text."""


def cells_of(orders: Sequence[str], keeps: Sequence[int], full: int) -> list[Cell]:
    """The measurements: the first order at every number, the others where they keep something else."""
    return [Cell(order, keep) for order in orders for keep in keeps if order == orders[0] or 0 < keep < full]


def measure_tokens(
    loaded: SiteTask,
    sources: Sources,
    plan: Plan,
    orders: Sequence[str],
    keeps: Sequence[int],
    full: int,
    progress: Progress,
    asked: int | None = None,
    rungs: Sequence[str] = RUNGS,
) -> TokenValues:
    """Every rung of every order and number at every scored evaluation token.

    Args:
        orders: of `measure.near`, the first of which is measured at every number.
        full: how many sources are all.
        asked: how many tissues; default: `tissues_for` the numbers of tokens.
        rungs: some of `RUNGS`.

    Raises:
        MeasurementError: a loss is not finite.
    """
    with torch.inference_mode():
        return _Measurement(
            loaded, sources, plan, tuple(orders), tuple(keeps), full, progress, tuple(rungs)
        ).run(asked)


@dataclass
class _Measurement:
    loaded: SiteTask
    sources: Sources
    plan: Plan
    orders: tuple[str, ...]
    keeps: tuple[int, ...]
    full: int
    progress: Progress
    rungs: tuple[str, ...]
    gradients: dict[str, list[Tensor]] = field(default_factory=dict)
    """The values by split, batch after batch, where they are needed."""

    @property
    def _name(self) -> str:
        return self.sources.adapted.name

    def _batches(self, split: str) -> Iterator[Batch]:
        if split == "calibration":
            windows, documents = self.plan.calibration_windows, None
        else:
            windows, documents = evaluation_part(self.loaded, self.plan)
        stored = self.loaded.activations(split, windows)  # type: ignore[arg-type]
        for whole in stored.batches(self.loaded.batch_size, self.loaded.device):
            names = whole.windows.documents
            rows = [row for row, name in enumerate(names) if documents is None or name in documents]
            if rows:
                yield whole if len(rows) == len(names) else whole.take(rows)

    def _codes(self, batch: Batch) -> Tensor:
        adapted = self.sources.adapted
        return adapted.encode(adapted.choose(batch.prefix.x_in, batch.prefix.x_out))

    def _gradients_of(self, split: str, number: int, batch: Batch) -> Tensor | None:
        if "attribution" not in self.orders:
            return None
        known = self.gradients.setdefault(split, [])
        if number == len(known):
            known.append(loss_gradients(self.loaded.runner("float32"), batch))
        return known[number]

    def run(self, asked: int | None) -> TokenValues:
        calibration, ids = self._look("calibration")
        evaluation, _ = self._look("evaluation", scored=True)
        number = tissues_for(calibration.shape[0], evaluation.shape[0]) if asked is None else asked
        tissues = fit_tissues(calibration, number, self.loaded.task.seed)
        tokens = self._clean().assign(tissue=tissues.assign(evaluation))
        cells = cells_of(self.orders, self.keeps, self.full)
        values, unmeasured = {}, {}
        for done, cell in enumerate(cells):
            self.progress(f"{self._name}: {cell.order}, {cell.keep} kept", done, len(cells))
            near = Near(self.sources, cell.order, cell.keep, self.full, self.loaded.task.seed)
            kernels, unmeasured[cell] = self._fit(near)
            values[cell] = self._scores(near, kernels)
        words = self._words(tissues.assign(calibration), ids, len(tissues.sizes))
        return TokenValues(tokens, values, unmeasured, tissues, words)

    def _look(self, split: str, *, scored: bool = False) -> tuple[Any, NDArray[np.int64]]:
        """Directions of the codes of spliced, or scored, tokens, and the ids of their inputs if there are."""
        parts: list[Codes] = []
        ids: list[NDArray[np.int64]] = []
        for batch in self._batches(split):
            self.progress(f"{self._name}: codes", len(parts), None)
            here = batch.scored if scored else batch.spliced
            parts.append(Codes.of(self._codes(batch)[here]))
            if isinstance(self.loaded, LanguageTask):
                ids.append(batch.inputs[here].cpu().numpy())
        directions = directions_of(Codes.joined(parts), self.sources.sizes)
        return directions, np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)

    def _words(
        self, labels: NDArray[np.int64], ids: NDArray[np.int64], tissues: int
    ) -> list[tuple[str, ...]]:
        if not isinstance(self.loaded, LanguageTask):
            return [()] * tissues
        tokenizer, found = self.loaded.given.tokenizer, []
        for chosen in prominent(labels, ids):
            texts = (tokenizer.decode([one], clean_up_tokenization_spaces=False)[:_WORD] for one in chosen)
            found.append(tuple(text for text in texts if text.isprintable() and text))
        return found

    def _clean(self) -> pd.DataFrame:
        """Places of scored tokens, and the clean model's entropy there."""
        runner, parts = self.loaded.runner(self.plan.dtype), []
        for batch in self._batches("evaluation"):
            rows, positions = (part.cpu().numpy() for part in batch.scored.nonzero(as_tuple=True))
            entropy = clean_entropy(runner, clean_pass(runner, batch))
            parts.append(
                pd.DataFrame(
                    {
                        "document": np.array(batch.windows.documents, dtype=object)[rows],
                        "window": np.array(batch.windows.indices)[rows],
                        "position": positions,
                        "entropy": np.nan if entropy is None else entropy.double().cpu().numpy(),
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def _estimate(self, near: Near, split: str, number: int, batch: Batch) -> Tensor:
        adapted, gradients = self.sources.adapted, None
        if near.order == "attribution" and 0 < near.keep < near.full:
            gradients = self._gradients_of(split, number, batch)
        read = adapted.choose(batch.prefix.x_in, batch.prefix.x_out)
        return adapted.completed(near.of(self._codes(batch), batch, gradients), read, batch.spliced)

    def _fit(self, near: Near) -> tuple[list[FittedRung], dict[str, str]]:
        others = {} if near.order == self.orders[0] else _FIRST
        rungs = {rung: KERNELS[rung] for rung in self.rungs if rung not in others}
        keep = any(rung.keeps for rung in rungs.values())
        calibration = Calibration.empty(self.loaded.task.site.width, device=self.loaded.device, keep=keep)
        for number, batch in enumerate(self._batches("calibration")):
            estimate = self._estimate(near, "calibration", number, batch).double()
            residual = batch.prefix.x_out.double() - estimate
            calibration.update(self._places(batch), estimate, residual, batch.spliced)
        kernels, unmeasured = fit_kernels(rungs, calibration, lambda _: 2 * PAIRS)
        return kernels, {**unmeasured, **{name: others[name] for name in others if name in self.rungs}}

    def _scores(self, near: Near, kernels: Sequence[FittedRung]) -> dict[str, NDArray[np.float64]]:
        runner = self.loaded.runner(self.plan.dtype)
        parts: dict[str, list[Tensor]] = {}
        for number, batch in enumerate(self._batches("evaluation")):
            clean = clean_pass(runner, batch)
            estimate = self._estimate(near, "evaluation", number, batch)
            memo: dict[int, Tensor] = {}
            for kernel in kernels:
                total = None
                for draw in range(kernel.draws):
                    spliced = splice(kernel, Draw(draw), batch, estimate, self._places(batch), memo)
                    found = compared_pass(runner, clean, spliced)
                    new = torch.stack([found.loss - clean.compared.loss, found.kl]).double().cpu()
                    total = new if total is None else total + new
                assert total is not None
                loss, kl = total / kernel.draws
                for name, known, value in ((kernel.name, LOSSES, loss), (f"kl_{kernel.name}", RATIO, kl)):
                    if kernel.name in known:
                        parts.setdefault(name, []).append(value)
        columns = {name: torch.cat(some).numpy() for name, some in parts.items()}
        if bad := [name for name, column in columns.items() if not np.isfinite(column).all()]:
            raise MeasurementError(
                f"{self._name}: a loss or KL of {bad[0]} is NaN or infinite with {near.keep} sources kept",
                fix="the spliced activations are too large for the model's dtype; try --dtype float32",
            )
        return columns

    def _places(self, batch: Batch) -> NoiseKeys:
        return NoiseKeys(self.loaded.task.seed, batch.windows.documents, batch.windows.indices)
