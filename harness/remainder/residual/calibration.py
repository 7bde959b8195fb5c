"""The data that residual models are fitted to: moments of (x̂, r), and a bank of real residuals.

- Joint moments of (x̂, r), streamed in float64, one part for each of a few folds of documents. The parts give
  held-out likelihoods and refits; their sum gives everything else.
- A keyed reservoir of whole windows, so that real residuals can be drawn one by one or in their order,
  together with the reconstructions that they belonged to.
- Where a rung asks for them, all windows, with codes and tokens (`residual.rows`).

At `LARGE` or more dimensions no d × d matrix is formed, and everything is fitted to the bank.

Source: protocol 1, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.record.rungs import FOLDS
from remainder.record.schema import ConditionalFit
from remainder.residual.codes import Codes
from remainder.residual.moments import Moments
from remainder.residual.noise import NoiseKeys, folds, priorities
from remainder.residual.rows import Rows, Seen

__all__ = ["LARGE", "Bank", "Calibration"]

LARGE = 8192
"""Number of dimensions at and above which no d × d matrix is formed."""

Fit = TypeVar("Fit")

_CAPACITY = 65536  # rows
_CAPACITY_LARGE = 20480
_WAITING = 8  # a bank is put in order when what came since holds its capacity's share, one over this


class _Windows(NamedTuple):
    keys: NDArray[np.uint64]
    residual: Float[Tensor, "windows pos d"]
    reconstruction: Float[Tensor, "windows pos d"]
    mask: Bool[Tensor, "windows pos"]


@dataclass
class Bank:
    """A keyed reservoir of windows: the ones of lowest random priority that fit into `capacity` spliced rows.

    Priorities are keyed by document and window, so the bank depends on neither batching nor order.
    """

    capacity: int
    residual: Float[Tensor, "windows pos d"] | None = None
    reconstruction: Float[Tensor, "windows pos d"] | None = None
    mask: Bool[Tensor, "windows pos"] | None = None
    _priorities: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    _cut: int = 2**64
    """The lowest priority that did not fit; no window with a higher one belongs here either."""
    _waiting: list[_Windows] = field(default_factory=list)
    """Windows that came since the bank was last put in order, which copies all of it."""

    def update(
        self,
        places: NoiseKeys,
        reconstruction: Float[Tensor, "docs pos d"],
        residual: Float[Tensor, "docs pos d"],
        mask: Bool[Tensor, "docs pos"],
    ) -> None:
        """Offer the windows of a batch; only positions where `mask` holds are ever read."""
        keep = mask[..., None]
        parts = (
            torch.where(keep, residual, 0.0).float(),
            torch.where(keep, reconstruction, 0.0).float(),
            mask,
        )
        keys = priorities(places)
        low = [place for place, key in enumerate(keys) if int(key) < self._cut]
        if low:  # a full bank takes few of them
            self._waiting.append(_Windows(keys[low], *(part[low] for part in parts)))
        if sum(some.mask.numel() for some in self._waiting) * _WAITING >= self.capacity:
            self._settle()

    def merge(self, other: Bank) -> None:
        """Add the windows of `other`; the result is the bank that would have seen all of them."""
        other._settle()
        if other.residual is not None and other.reconstruction is not None and other.mask is not None:
            self._waiting.append(
                _Windows(other._priorities, other.residual, other.reconstruction, other.mask)
            )
            self._cut = min(self._cut, other._cut)
            self._settle()

    def _settle(self) -> None:
        """Put what came since last in its place, and leave out what no longer fits."""
        if not self._waiting:
            return
        parts = list(self._waiting)
        if self.residual is not None and self.reconstruction is not None and self.mask is not None:
            parts.insert(0, _Windows(self._priorities, self.residual, self.reconstruction, self.mask))
        self._waiting.clear()
        keys = np.concatenate([part.keys for part in parts])
        total = torch.cat([part.mask for part in parts]).sum(1).cpu().numpy()
        order = np.argsort(keys, kind="stable")
        fit = max(int(np.searchsorted(np.cumsum(total[order]), self.capacity, side="right")), 1)
        if fit < len(order):
            self._cut = min(self._cut, int(keys[order[fit]]))
        order = order[:fit]
        order = order[[int(key) < self._cut for key in keys[order]]]
        chosen = torch.from_numpy(order).to(parts[0].mask.device)
        self._priorities = keys[order]
        self.residual = torch.cat([part.residual for part in parts])[chosen]
        self.reconstruction = torch.cat([part.reconstruction for part in parts])[chosen]
        self.mask = torch.cat([part.mask for part in parts])[chosen]

    @property
    def filled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Residual and reconstruction [windows, pos, d] and mask [windows, pos].

        Raises:
            MeasurementError: if no spliced position was seen.
        """
        self._settle()
        if self.residual is None or self.reconstruction is None or self.mask is None or not self.mask.any():
            raise MeasurementError("the bank of real residuals is empty", fix="use more calibration windows")
        return self.residual, self.reconstruction, self.mask

    def rows(self) -> Float[Tensor, "rows d"]:
        """Residuals at spliced positions, float32, window after window."""
        residual, _, mask = self.filled
        return residual[mask]

    def reconstructions(self) -> Float[Tensor, "rows d"]:
        """The reconstructions that `rows` belonged to."""
        _, reconstruction, mask = self.filled
        return reconstruction[mask]


@dataclass
class Calibration:
    """Statistics of (x̂, r) by fold of documents, a bank, and the documents seen."""

    width: int
    folds: tuple[Moments, ...]
    """Joint moments of (x̂, r), width 2d, of each fold of documents; empty at `LARGE` or more dimensions."""
    bank: Bank
    documents: set[str] = field(default_factory=set)
    tokens: int = 0
    rows: Rows | None = None
    """All windows with what conditional kernels may see; null where no rung of the plan asks for them."""
    conditional: dict[str, ConditionalFit] = field(default_factory=dict)
    """Figures of conditional kernels on held-out documents, by rung."""
    _fitted: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def empty(
        cls,
        width: int,
        capacity: int | None = None,
        device: torch.device | str = "cpu",
        *,
        keep: bool = False,
    ) -> Calibration:
        """A calibration that has seen nothing.

        Args:
            capacity: rows that its bank holds at most.
            keep: whether all rows are kept, which conditional kernels are fitted to.
        """
        large = width >= LARGE
        parts = () if large else tuple(Moments.empty(2 * width, device) for _ in range(FOLDS))
        bank = Bank(capacity or (_CAPACITY_LARGE if large else _CAPACITY))
        return cls(width, parts, bank, rows=Rows(width) if keep else None)

    def update(
        self,
        places: NoiseKeys,
        reconstruction: Float[Tensor, "docs pos d"],
        residual: Float[Tensor, "docs pos d"],
        mask: Bool[Tensor, "docs pos"],
        codes: Codes | None = None,
        tokens: Int[Tensor, "docs pos"] | None = None,
    ) -> None:
        """Add the positions of a batch of windows where `mask` holds.

        Args:
            codes: of these positions, in their order; kept only where all rows are.
            tokens: ids of the input, if it is a text; kept likewise.

        Raises:
            MeasurementError: if a value is not finite there.
        """
        for name, value in (("residual", residual), ("reconstruction", reconstruction)):
            bad = int((~torch.isfinite(value[mask])).any(-1).sum())
            if bad:
                raise MeasurementError(
                    f"{bad} of {int(mask.sum())} rows of the {name} hold NaN or infinity",
                    fix="check the interpretation's weights and the scale of its output",
                )
        self._fitted.clear()
        if self.folds:
            dealt = torch.tensor(folds(places, len(self.folds)))
            for index, part in enumerate(self.folds):
                rows = (dealt == index).to(mask.device)[:, None] & mask
                part.update(torch.cat([reconstruction[rows].double(), residual[rows].double()], -1))
        self.bank.update(places, reconstruction, residual, mask)
        if self.rows is not None:
            self.rows.update(places, Seen(reconstruction, mask, codes, tokens), residual)
        self.documents.update(places.documents)
        self.tokens += int(mask.sum())

    def merge(self, other: Calibration) -> None:
        """Add the statistics of `other`, which has seen other documents or windows."""
        self._fitted.clear()
        for own, theirs in zip(self.folds, other.folds, strict=True):
            own.merge(theirs)
        self.bank.merge(other.bank)
        if self.rows is not None and other.rows is not None:
            self.rows.merge(other.rows)
        self.documents |= other.documents
        self.tokens += other.tokens

    def once(self, name: str, fit: Callable[[Calibration], Fit]) -> Fit:
        """The result of `fit` on this calibration, computed once under this name and shared by all rungs."""
        if name not in self._fitted:
            self._fitted[name] = fit(self)
        fitted: Fit = self._fitted[name]
        return fitted

    def already(self, name: str) -> Any:
        """The result that `once` computed under this name; None if it was never asked to."""
        return self._fitted.get(name)

    @property
    def is_large(self) -> bool:
        """Whether d × d matrices are too large to form."""
        return not self.folds

    @property
    def joint(self) -> Moments:
        """Moments of (x̂, r) over all folds."""
        self._require_matrices()
        return Moments.merged(self.folds)

    @property
    def residual_folds(self) -> tuple[Moments, ...]:
        """Moments of r, fold by fold."""
        self._require_matrices()
        return tuple(part.part(slice(self.width, None)) for part in self.folds)

    @property
    def moments(self) -> Moments:
        """Moments of r over all folds."""
        return Moments.merged(self.residual_folds)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """The mean residual μ."""
        return self.bank.rows().double().mean(0) if self.is_large else self.moments.mean

    @property
    def reconstruction_mean(self) -> Float[Tensor, " d"]:
        """The mean reconstruction."""
        if self.is_large:
            return self.bank.reconstructions().double().mean(0)
        return self.joint.mean[: self.width]

    def _require_matrices(self) -> None:
        if self.is_large:
            raise MeasurementError(
                f"this needs a covariance of {self.width} dimensions as a matrix; the limit is {LARGE - 1}",
                fix="leave out the rungs linear-mean, linear, temporal and radial",
            )
