"""Kernels that draw real residuals from the bank of the calibration."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.residual.calibration import Calibration
from remainder.residual.cells import Cells, fit_cells
from remainder.residual.covariance import bank_covariance
from remainder.residual.kernel import Context, Kernel, Sample
from remainder.residual.noise import Draw, indices

__all__ = ["Matched", "Permuted", "PermutedBlock", "Perturbative"]


class Permuted(Kernel):
    """ε = a real residual from the bank, drawn independently at every position."""

    rows: Float[Tensor, "rows d"]

    def __init__(self, calibration: Calibration) -> None:
        self.rows = calibration.once("rows", lambda calibration: calibration.bank.rows())

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self._drawn(context, draw, "index")

    def _drawn(self, context: Context, draw: Draw, stream: str) -> Sample:
        positions = context.reconstruction.shape[1]
        chosen = indices(context.places, draw.index, positions, len(self.rows), stream)
        drawn: Tensor = self.rows[chosen.to(self.rows.device)].double()
        return drawn.to(context.reconstruction.device)


class Perturbative(Permuted):
    """ε = μ + m^{−1/2} Σ (r_π(i) − μ) over m real residuals: the n-th cumulant shrinks by m^{1−n/2}.

    The residuals of a smaller m are among those of a larger one, and `permuted` is m = 1.
    """

    def __init__(self, calibration: Calibration, order: int) -> None:
        super().__init__(calibration)
        self.order = order
        self.mean = bank_covariance(calibration).mean

    def sample(self, context: Context, draw: Draw) -> Sample:
        total = self._drawn(context, draw, "index")
        for i in range(1, self.order):
            total += self._drawn(context, draw, f"index-{i}")
        centre = self.centre(context)
        sample: Tensor = centre + (total - self.order * centre) / self.order**0.5
        return sample


class PermutedBlock(Kernel):
    """ε = the residuals of one calibration window in their order, from a random start, cyclically."""

    windows: tuple[Float[Tensor, "rows d"], ...]

    def __init__(self, calibration: Calibration) -> None:
        residual, _, mask = calibration.bank.filled
        self.windows = tuple(rows[kept] for rows, kept in zip(residual, mask, strict=True) if kept.any())

    def sample(self, context: Context, draw: Draw) -> Sample:
        places, mask = context.places, context.mask
        chosen = indices(places, draw.index, 1, len(self.windows), "window")[:, 0].tolist()
        lengths = torch.tensor([len(self.windows[index]) for index in chosen])[:, None]
        starts = indices(places, draw.index, 1, lengths, "start")[:, 0].tolist()
        sample = torch.zeros_like(context.reconstruction, dtype=torch.float64)
        for place, (index, start) in enumerate(zip(chosen, starts, strict=True)):
            rows = self.windows[index]
            order = (start + torch.arange(int(mask[place].sum()))) % len(rows)
            sample[place, mask[place]] = rows[order.to(rows.device)].double().to(sample.device)
        return sample


class Matched(Kernel):
    """ε = a real residual whose reconstruction lay in the same cell as this one."""

    rows: Float[Tensor, "rows d"]
    cells: Cells

    def __init__(self, calibration: Calibration) -> None:
        self.rows = calibration.once("rows", lambda calibration: calibration.bank.rows())
        self.cells = calibration.once(
            "cells", lambda calibration: fit_cells(calibration.bank.reconstructions(), self.rows)
        )

    def sample(self, context: Context, draw: Draw) -> Sample:
        reconstruction = context.reconstruction
        cell = self.cells.assign(reconstruction).cpu()
        within = indices(context.places, draw.index, reconstruction.shape[1], self.cells.sizes[cell], "cell")
        chosen = self.cells.members[self.cells.starts[cell] + within]
        return self.rows[chosen.to(self.rows.device)].double().to(reconstruction.device)
