"""Cells of reconstructions: k-means, then merging until no cell has too few rows.

1. k-means (scikit-learn) on the reconstructions of the bank, about `_ROWS_A_CELL` rows a cell.
2. While a cell has fewer than `MINIMUM` rows, the smallest is dissolved and its rows go to their next nearest
   centre.
3. The share of the residual's variance that the cell explains, adjusted for the number of cells,
   1 − (W/(N − K))/(T/(N − 1)), bounds what these cells can show.

Source: protocol 1, section 3 (`matched`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["MINIMUM", "Cells", "fit_cells"]

MINIMUM = 30
"""Least number of rows in a cell (unless there are fewer in all)."""

_ROWS_A_CELL = 60
_MOST = 256


@dataclass(frozen=True)
class Cells:
    """The centres, and the place of each cell's rows in `members`."""

    centres: Float[Tensor, "cells d"]
    members: Int[Tensor, " rows"]
    starts: Int[Tensor, " cells"]
    sizes: Int[Tensor, " cells"]
    explained: float | None
    """Adjusted share of the residual's variance between cells; None if there is no variance."""

    def assign(self, x: Float[Tensor, "*rows d"]) -> Int[Tensor, "*rows"]:
        """The cell with the nearest centre, for each reconstruction."""
        return _distances(self.centres.to(x.device), x.float()).argmin(-1)


def fit_cells(reconstruction: Float[Tensor, "rows d"], residual: Float[Tensor, "rows d"]) -> Cells:
    """Cells of `reconstruction`, deterministic for rows in the same order."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = reconstruction.float()
    wanted = max(1, min(_MOST, len(points) // _ROWS_A_CELL))
    if wanted == 1 or bool((points == points[0]).all()):
        centres = points.double().mean(0, keepdim=True).float()
    else:
        with warnings.catch_warnings():
            # With fewer distinct points than cells, some stay empty; they are dissolved below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            clusters = KMeans(wanted, n_init=1, random_state=0, max_iter=50).fit(points.cpu().numpy())
        centres = torch.from_numpy(clusters.cluster_centers_).to(points)
    distances = _distances(centres, points)
    while True:
        labels = distances.argmin(-1)
        sizes = torch.bincount(labels, minlength=len(centres))
        if len(centres) == 1 or int(sizes.min()) >= MINIMUM:
            break
        kept = sizes > 0
        if kept.all():  # empty cells can all go at once, since no row moves
            kept[sizes.argmin()] = False
        centres, distances = centres[kept], distances[:, kept]
    members = torch.argsort(labels, stable=True).cpu()
    sizes = sizes.cpu()
    starts = torch.cumsum(sizes, 0) - sizes
    return Cells(centres, members, starts, sizes, _explained(residual.double(), labels, len(centres)))


def _distances(centres: Tensor, x: Tensor) -> Tensor:
    """Squared distances to each centre, less what is the same for all of them."""
    # ‖x − c‖² = ‖x‖² − 2 x·c + ‖c‖²; ‖x‖² is the same for all centres and left out. Subtracting the mean of
    # the centres first keeps the products small, and with them the rounding.
    shift = centres.mean(0)
    c = centres - shift
    return (x - shift) @ (-2 * c).T + c.square().sum(-1)


def _explained(residual: Tensor, labels: Tensor, cells: int) -> float | None:
    rows = len(residual)
    total = float((residual - residual.mean(0)).square().sum())
    if total == 0 or rows <= cells:
        return None
    sums = torch.zeros(cells, residual.shape[1], dtype=torch.float64, device=residual.device)
    sums.index_add_(0, labels, residual)
    means = sums / torch.bincount(labels, minlength=cells)[:, None]
    within = float((residual - means[labels]).square().sum())
    return 1 - (within / (rows - cells)) / (total / (rows - 1))
